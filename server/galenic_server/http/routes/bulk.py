"""
Publishes adapters in bulk: one line per package in, one line per outcome out.

A bulk is many uploads, not one: a line that is refused does not stop the others. It is received
whole before the first line is parsed, and written in transactions of some hundred lines. Packages
are recognized by their bytes, so after a broken connection the same bulk can be sent again.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import IO, Literal

from anyio.to_thread import run_sync
from fastapi import Request
from fastapi.responses import StreamingResponse

from galenic_adapters.errors import BadInput, GalenicError, Unavailable
from galenic_adapters.package.file import package_digest
from galenic_server.audit import chain
from galenic_server.http.auth import TenantDep
from galenic_server.http.faults import body_of
from galenic_server.http.routes.admin import StreamedRoute, admin_router
from galenic_server.http.routes.lines import LINES, LINES_MEDIA, lines_of, received
from galenic_server.http.stores import PublisherDep
from galenic_server.registry.archive import parse_package_line
from galenic_server.registry.offers import Offer, Published
from galenic_server.registry.publisher import Publisher
from galenic_server.schemas.admin import BulkEnd, BulkLine

streamed = admin_router(route_class=StreamedRoute)

BATCH, BATCH_BYTES = 500, 16 << 20
MOST_FAILED = 1000

Numbered = tuple[int, bytes]


@streamed.post("/adapters", openapi_extra=LINES, response_class=StreamingResponse)
async def publish_many(
    tenant: TenantDep, request: Request, publisher: PublisherDep
) -> StreamingResponse:
    """
    Publish many packages, one per line: ``{"name", "package": base64, "version"?, "signature"?}``.

    Answers with a line for each as it is written, ``{"line", "state": "new" | "there" | "failed",
    "name", "version", "digest", "error"}``, and a last line of kind *end*. A failed line does not
    stop the others, a thousand of them do (*is_stopped* is true then). Empty lines are passed over.
    Bytes that a name has already are not written again, so a bulk can be repeated.
    """
    file = await received(request)
    if not file.tell():
        file.close()
        raise BadInput("body", "is empty; a line for each adapter is wanted")
    lines = _answers(publisher, tenant, file, chain.under_way())
    return StreamingResponse(lines, media_type=LINES_MEDIA)


async def _answers(
    publisher: Publisher, tenant: str, file: IO[bytes], record: chain.Record
) -> AsyncIterator[bytes]:
    counts = Counter[str]()
    with file:
        batches = _batches(lines_of(file))
        while batch := await run_sync(next, batches, None):
            with chain.acting(record):
                lines = await _publish(publisher, tenant, batch)
            counts.update(line.state for line in lines)
            yield b"".join(_text(line) for line in lines)
            if counts["failed"] >= MOST_FAILED:
                break
    new, there, failed = (counts[state] for state in ("new", "there", "failed"))
    is_stopped = None if batch is None else True
    yield _text(BulkEnd(new=new, there=there, failed=failed, is_stopped=is_stopped))


async def _publish(publisher: Publisher, tenant: str, batch: Sequence[Numbered]) -> list[BulkLine]:
    read = await run_sync(lambda: [_read(tenant, text) for _, text in batch])
    offers = [offer for offer in read if isinstance(offer, Offer)]
    try:
        placed = iter(await publisher.publish_many(tenant, offers) if offers else [])
    except Unavailable as away:
        placed = iter([away] * len(offers))
    return [
        _line(number, offer, next(placed) if isinstance(offer, Offer) else offer)
        for (number, _), offer in zip(batch, read, strict=True)
    ]


def _read(tenant: str, text: bytes) -> Offer | GalenicError:
    try:
        return parse_package_line(text).offer(tenant)
    except GalenicError as error:
        return error


def _line(number: int, offer: Offer | GalenicError, outcome: Published | GalenicError) -> BulkLine:
    name = offer.name if isinstance(offer, Offer) else None
    digest = package_digest(offer.data) if isinstance(offer, Offer) else None
    if isinstance(outcome, GalenicError):
        error = body_of(outcome)["error"]
        return BulkLine(line=number, state="failed", name=name, digest=digest, error=error)
    state: Literal["new", "there"] = "new" if outcome.is_new else "there"
    version = outcome.ref.version
    return BulkLine(line=number, state=state, name=name, version=version, digest=digest)


def _text(line: BulkLine | BulkEnd) -> bytes:
    return line.model_dump_json(exclude_none=True).encode() + b"\n"


def _batches(lines: Iterable[bytes]) -> Iterator[list[Numbered]]:
    """Number lines from 1, and batch those that are not empty by number and size."""
    batch: list[Numbered] = []
    num_bytes = 0
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        batch.append((number, text))
        num_bytes += len(text)
        if len(batch) == BATCH or num_bytes >= BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch
