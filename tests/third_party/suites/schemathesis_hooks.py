"""Media types that schemathesis does not know by itself."""

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(ctx: object, value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
