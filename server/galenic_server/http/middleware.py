"""
Wraps every request: gives it an id, bounds its bytes and time, and logs, counts and audits it.
"""

import asyncio
import re
import time
import uuid
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from galenic_adapters.errors import BadInput
from galenic_server import logs
from galenic_server.audit.ledger import LEDGER, Ledger
from galenic_server.audit.trail import Trail, provenance
from galenic_server.http import faults
from galenic_server.metrics import Metrics

log = structlog.get_logger(__name__)

ADDRESS = re.compile(r"[0-9A-Fa-f.:]{1,45}")  # a proxy may hand on any text
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SLOWEST_BYTES_PER_SECOND = 16 << 10
GZIP_WINDOW = 16 + zlib.MAX_WBITS  # zlib's way to say: gzip, of any window


def request_id(headers: Headers) -> str:
    """Return the caller's id if it sent one that is safe to repeat, else a new one."""
    sent = headers.getlist("x-request-id")
    if len(sent) == 1 and REQUEST_ID.fullmatch(sent[0]):
        return sent[0]
    return uuid.uuid4().hex


def _source(scope: Scope) -> str:
    host = scope["client"][0] if scope.get("client") else ""
    return host if ADDRESS.fullmatch(host) else ""


class TracingMiddleware:
    """
    Gives a request its id, and reports its outcome to log, metrics and audit.

    Errors that are not in the table end here: the reply has the request's id, the log the error's
    type and place. The request's state holds *ending*, an exit stack that is closed when it is
    answered, *headers*, which every reply to it carries, and *source*, the address it came from.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, trail: Trail) -> None:
        self.app = app
        self.metrics = metrics
        self.trail = trail

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        id_ = request_id(Headers(scope=scope))
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=id_)
        ledger = Ledger()
        LEDGER.set(ledger)
        state = scope.setdefault("state", {})
        state["request_id"], state["headers"] = id_, {"x-request-id": id_}
        state["source"] = _source(scope)
        status, began = 0, time.perf_counter()

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(state["headers"])
            await send(message)

        with ExitStack() as state["ending"]:
            try:
                await self.app(scope, receive, named)
            except Exception as error:  # noqa: BLE001 beyond here its message would be logged
                log.error("request failed", **logs.where(error))
                if status == 0:
                    await faults.reply(error)(scope, receive, named)
            finally:
                self._tell(scope, status, time.perf_counter() - began)
                self._audit(scope, status, ledger)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        """Log and count the request; a status of 0 means that the client left before a reply."""
        state: dict[str, Any] = scope["state"]
        route = getattr(scope.get("route"), "path", "")
        tenant = state["caller"].tenant if "caller" in state else ""
        self.metrics.count_request(route, tenant, status)
        if "task" in state:
            self.metrics.observe_seconds(state["task"], tenant, seconds)
        facts = {"method": scope["method"], "route": route, "status": status, "tenant": tenant}
        log.info("request", **facts, source=state["source"], seconds=round(seconds, 4))

    def _audit(self, scope: Scope, status: int, ledger: Ledger) -> None:
        """Queue an audit row for each adapter that worked for the request, even if it failed."""
        state: dict[str, Any] = scope["state"]
        for digest, spent in ledger.by_digest.items():
            origin = {
                "tenant": state["caller"].tenant,
                "actor": state["caller"].key_id,
                "route": getattr(scope.get("route"), "path", ""),
                "request_id": state["request_id"],
                "source": state["source"],
                "outcome": status,
            }
            self.trail.add(provenance(origin, digest, spent))


class BodyLimitMiddleware:
    """
    Refuses bodies that are too large or too slow, and unpacks gzip.

    A body may have *max_bytes*, announced or sent and once unpacked, and must arrive at 16 KiB a
    second after an initial *patience_seconds*. *larger* maps methods and paths whose bodies are not
    held in memory to their own limits. A body of GET or DELETE is never read.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        patience_seconds: float,
        larger: Mapping[tuple[str, re.Pattern[str]], int],
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.patience_seconds = patience_seconds
        self.larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers, most = Headers(scope=scope), self._most(scope)
        length = headers.get("content-length", "")
        is_announced = length.isascii() and length.isdigit() and int(length[:20]) > most
        # Without a limit of its own a method is answered first: 405 says more than its body's size.
        if is_announced and most:
            return await faults.reply(_too_large(most))(scope, receive, send)
        coding = headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("identity", "gzip", "x-gzip"):
            refused = faults.WrongMedia("content-encoding: only gzip and identity are read")
            return await faults.reply(refused)(scope, receive, send)
        body = Body(receive, most, self.patience_seconds, is_gzip=coding != "identity")
        return await self.app(scope, body.receive, send)

    def _most(self, scope: Scope) -> int:
        method, path = scope["method"], scope["path"]
        if method in BODILESS:
            return 0
        found = (
            most
            for (its_method, form), most in self.larger.items()
            if method == its_method and form.fullmatch(path)
        )
        return next(found, self.max_bytes)


BODILESS = frozenset(["GET", "HEAD", "DELETE", "OPTIONS"])


class Body:
    """Receives one request's body, of *most* bytes at most, and unpacks it if it is gzip."""

    def __init__(
        self, receive: Receive, most: int, patience_seconds: float, *, is_gzip: bool
    ) -> None:
        self._receive = receive
        self._most = most
        self._patience_seconds = patience_seconds
        self._inflater = zlib.decompressobj(GZIP_WINDOW) if is_gzip else None
        self._began = time.monotonic()
        self._num_received = 0
        self._num_bytes = 0
        self._is_whole = False

    async def receive(self) -> Message:
        """Raise `TooSlow`, `TooLarge`, or `BadInput` where it is no gzip."""
        if self._is_whole:
            return await self._receive()  # from here on, only waits for a disconnect
        message = await self._in_time()
        sent = message.get("body", b"")
        self._num_received += len(sent)
        self._is_whole = not message.get("more_body", False)
        if sent and self._inflater is not None:
            message["body"] = sent = self._inflated(self._inflater, sent)
        self._num_bytes += len(sent)
        if max(self._num_bytes, self._num_received) > self._most:
            raise _too_large(self._most)
        if self._is_whole and self._num_received and self._inflater is not None:
            _check_end(self._inflater)
        return message

    def _inflated(self, inflater: "zlib._Decompress", sent: bytes) -> bytes:
        try:
            return inflater.decompress(sent, self._most - self._num_bytes + 1)
        except zlib.error:
            raise BadInput("body", "is not gzip, as its content-encoding says") from None

    async def _in_time(self) -> Message:
        until = self._began + self._patience_seconds + self._num_received / SLOWEST_BYTES_PER_SECOND
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                return await self._receive()
        except TimeoutError:
            raise faults.TooSlow("the body came too slowly") from None


def _check_end(inflater: "zlib._Decompress") -> None:
    if not inflater.eof or inflater.unused_data:
        raise BadInput("body", "is not one gzip stream from its start to its end")


def _too_large(most: int) -> faults.TooLarge:
    if not most:
        return faults.TooLarge("a request of this method has no body")
    return faults.TooLarge(f"the body has more than {most:,} bytes")
