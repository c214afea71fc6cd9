"""
What every request passes first and last: an id, a bound on its bytes, a line in the log, a count.
"""

import re
import time
import uuid
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from galenic_server import faults, logs
from galenic_server.metrics import Metrics

log = structlog.get_logger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id(headers: Headers) -> str:
    """The caller's own id where it sent one that is safe to repeat, else a new one."""
    sent = headers.getlist("x-request-id")
    if len(sent) == 1 and REQUEST_ID.fullmatch(sent[0]):
        return sent[0]
    return uuid.uuid4().hex


class Traced:
    """
    Gives a request its id, and tells log and metrics how it went.

    An error that no table knows ends here: the caller learns the id, the log its type and place.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        id_ = request_id(Headers(scope=scope))
        state = scope.setdefault("state", {})
        state["request_id"] = id_
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=id_)
        status, began = 0, time.perf_counter()

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = id_
            await send(message)

        try:
            await self.app(scope, receive, named)
        except Exception as error:  # noqa: BLE001 the last place that can keep its message from the log
            log.error("request failed", **logs.where(error))
            if status == 0:
                await JSONResponse(faults.body_of(error), 500)(scope, receive, named)
        finally:
            self._tell(scope, status, time.perf_counter() - began)

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


class Bounded:
    """Refuses a body of more than *max_bytes*, said or sent, before it fills the memory."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        said = Headers(scope=scope).get("content-length", "")
        if said.isascii() and said.isdigit() and int(said[:20]) > self.max_bytes:
            return await self._refuse(scope, receive, send)
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self.max_bytes:
                raise self._too_large()
            return message

        return await self.app(scope, counted, send)

    def _too_large(self) -> faults.TooLarge:
        return faults.TooLarge(f"the body has more than {self.max_bytes:,} bytes")

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._too_large()
        kind = faults.TABLE[faults.TooLarge]
        await JSONResponse(faults.body_of(error), kind.status, kind.headers)(scope, receive, send)
