"""
Bounds the time a client may take to send a request's head, and to read its answer.

uvicorn waits for either without limit. A connection that sends its head a byte a minute, or does
not read a long answer, is closed here, and the work for it stops.
"""

import asyncio
from asyncio import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10


class GuardedHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which closes a connection after *patience_seconds* of waiting."""

    patience_seconds: float = 30.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timers: dict[str, TimerHandle] = {}
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for("head")

    def connection_lost(self, exc: Exception | None) -> None:
        for name in list(self._timers):
            self._has_come(name)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if "head" in self._timers:  # the head is not complete yet
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self._wait_for("head")

    def on_headers_complete(self) -> None:
        self._has_come("head")
        super().on_headers_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for("reader")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._has_come("reader")

    def _wait_for(self, what: str) -> None:
        if what not in self._timers:
            cut_off = self.transport.abort
            self._timers[what] = self.loop.call_later(self.patience_seconds, cut_off)

    def _has_come(self, what: str) -> None:
        if timer := self._timers.pop(what, None):
            timer.cancel()


def guarded(seconds: float) -> type[GuardedHttp]:
    """Make the protocol class with that patience."""
    return type("GuardedHttp", (GuardedHttp,), {"patience_seconds": seconds})
