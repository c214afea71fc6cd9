"""
Wraps every request: gives it an id, bounds its bytes and time, and logs, counts and audits it.
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
    """Return the caller's id if it sent one that is safe to repeat, else a new one."""
    sent = headers.getlist("x-request-id")
    if len(sent) == 1 and REQUEST_ID.fullmatch(sent[0]):
        return sent[0]
    return uuid.uuid4().hex


class TracingMiddleware:
    """
    Gives a request its id, and reports its outcome to log, metrics and audit.

    Errors that are not in the table end here: the reply has the request's id, the log the error's
    type and place. The request's state holds *ending*, an exit stack that is closed when it is
    answered, and *headers*, which every reply to it carries.
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
        log.info("request", **facts, seconds=round(seconds, 4))

    def _audit(self, scope: Scope, status: int, ledger: Ledger) -> None:
        """Queue an audit row for each adapter that worked for the request, even if it failed."""
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
    Refuses bodies that are too large or too slow.

    A body may have *max_bytes*, announced or sent, and must arrive at 16 KiB a second after an
    initial *patience_seconds*. *larger* maps paths whose bodies are not held in memory to their own
    limits.
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
        length = Headers(scope=scope).get("content-length", "")
        most = self._most(scope["path"])
        if length.isascii() and length.isdigit() and int(length[:20]) > most:
            return await faults.reply(_too_large(most))(scope, receive, send)
        num_bytes, is_whole, began = 0, False, time.monotonic()

        async def counted() -> Message:
            nonlocal num_bytes, is_whole
            if is_whole:
                return await receive()  # from here on, only waits for a disconnect
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
