"""
Receives bodies of lines whole, on disk if they are large, and reads them line by line.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

from anyio.to_thread import run_sync
from fastapi import Request

from galenic_adapters.errors import Unavailable
from galenic_server.registry.archive import MAX_LINE_BYTES

STREAMED = (
    ("PUT", re.compile("/admin/v1/tenants/[^/]+/archive")),
    ("POST", re.compile("/admin/v1/adapters")),
)
"""The methods and paths of those routes."""
LINES_MEDIA = "application/x-ndjson"
LINES = {
    "requestBody": {
        "required": True,
        "content": {LINES_MEDIA: {"schema": {"type": "string", "format": "binary"}}},
    }
}
IN_MEMORY_BYTES = 1 << 20


async def received(request: Request) -> IO[bytes]:
    """
    Receive the body into a file, which the caller has to close.

    Raises `Unavailable` if the disk for temporary files is full.
    """
    file = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115  kept open for the reply
    try:
        async for part in request.stream():
            await run_sync(file.write, part)
    except BaseException as error:
        with suppress(OSError):  # closing writes what is left
            file.close()
        if isinstance(error, OSError):
            raise Unavailable("there is no room for this body on the server's disk") from error
        raise
    return file


def lines_of(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the file's lines from its start, each cut at the longest line of an upload."""
    file.seek(0)
    while line := file.readline(MAX_LINE_BYTES):
        yield line
