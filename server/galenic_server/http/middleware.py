"""
What every request passes first and last: an id, bounds on its bytes and its time, a line in the
log, a count, and the rows that tell who got which answer.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from galenic_server import logs
from galenic_server.audit.ledger import LEDGER, Ledger
from galenic_server.audit.trail import Trail, provenance
from galenic_server.http import faults
from galenic_server.metrics import Metrics

log = structlog.get_logger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SLOWEST_BYTES_PER_SECOND = 16 << 10


def request_id(headers: Headers) -> str:
    """The caller's own id where it sent one that is safe to repeat, else a new one."""
    sent = headers.getlist("x-request-id")
    if len(sent) == 1 and REQUEST_ID.fullmatch(sent[0]):
        return sent[0]
    return uuid.uuid4().hex


class TracingMiddleware:
    """
    Gives a request its id, and tells log, metrics and audit how it went.

    An error that no table knows ends here: the caller learns the id, the log its type and place.
    A request's state holds *ending*, where what is held for it is let go when it is answered, and
    *headers*, which its reply carries whatever becomes of it.
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
            except Exception as error:  # noqa: BLE001 the last place that can keep its message from the log
                log.error("request failed", **logs.where(error))
                if status == 0:
                    await faults.reply(error)(scope, receive, named)
            finally:
                self._tell(scope, status, time.perf_counter() - began)
                self._audit(scope, status, ledger)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        """A status of 0: nothing was answered, the client having left before."""
        state: dict[str, Any] = scope["state"]
        route = getattr(scope.get("route"), "path", "")
        tenant = state["caller"].tenant if "caller" in state else ""
        self.metrics.count_request(route, tenant, status)
        if "task" in state:
            self.metrics.observe_seconds(state["task"], tenant, seconds)
        told = {"method": scope["method"], "route": route, "status": status, "tenant": tenant}
        log.info("request", **told, seconds=round(seconds, 4))

    def _audit(self, scope: Scope, status: int, ledger: Ledger) -> None:
        """A row for each adapter that worked for the request, whatever came of it."""
        state: dict[str, Any] = scope["state"]
        for digest, spent in ledger.by_digest.items():
            origin = {
                "tenant": state["caller"].tenant,
                "actor": state["caller"].key_id,
                "route": getattr(scope.get("route"), "path", ""),
                "request_id": state["request_id"],
                "outcome": status,
            }
            self.trail.add(provenance(origin, digest, spent))


class BodyLimitMiddleware:
    """
    Refuses a body of more than *max_bytes*, said or sent, before it fills the memory, and one that
    comes more slowly than 16 KiB a second, *patience_seconds* aside. *larger* has the paths whose
    bodies are not held in memory, and how much they may send.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        patience_seconds: float,
        larger: Mapping[re.Pattern[str], int],
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.patience_seconds = patience_seconds
        self.larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        said = Headers(scope=scope).get("content-length", "")
        most = self._most(scope["path"])
        if said.isascii() and said.isdigit() and int(said[:20]) > most:
            return await faults.reply(_too_large(most))(scope, receive, send)
        num_bytes, is_whole, began = 0, False, time.monotonic()

        async def counted() -> Message:
            nonlocal num_bytes, is_whole
            if is_whole:
                return await receive()  # which now waits for the client to leave
            until = began + self.patience_seconds + num_bytes / SLOWEST_BYTES_PER_SECOND
            message = await self._in_time(receive, until)
            num_bytes += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if num_bytes > most:
                raise _too_large(most)
            return message

        return await self.app(scope, counted, send)

    def _most(self, path: str) -> int:
        found = (most for form, most in self.larger.items() if form.fullmatch(path))
        return next(found, self.max_bytes)

    async def _in_time(self, receive: Receive, until: float) -> Message:
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                return await receive()
        except TimeoutError:
            raise faults.TooSlow("the body came too slowly") from None


def _too_large(most: int) -> faults.TooLarge:
    return faults.TooLarge(f"the body has more than {most:,} bytes")
