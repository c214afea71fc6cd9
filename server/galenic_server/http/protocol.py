"""
Bounds the time a client may take to send a request's head and to read its answer, and the number of
open connections.

uvicorn waits for either without limit. A connection that sends its head a byte a minute, or does
not read a long answer, is closed here, and the work for it stops. So is one that goes on sending
after its answer, or sends trailers, which nothing reads and uvicorn would keep in memory.
"""

import asyncio
from asyncio import TimerHandle
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 64 << 10


@dataclass
class Crowd:
    """Counts open connections, in all and of each peer."""

    most: int
    most_of_peer: int
    of_peer: Counter[str] = field(default_factory=Counter)

    def enter(self, peer: str) -> bool:
        """Count one more connection, and return whether it is within the limits."""
        self.of_peer[peer] += 1
        return self.of_peer[peer] <= self.most_of_peer and self.of_peer.total() <= self.most

    def leave(self, peer: str) -> None:
        self.of_peer[peer] -= 1
        if not self.of_peer[peer]:
            del self.of_peer[peer]


class GuardedHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which closes a connection after *patience_seconds* of waiting."""

    patience_seconds: float
    crowd: Crowd

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timers: dict[str, TimerHandle] = {}
        self._num_outside = 0  # bytes since the last byte of a body or the end of a head
        self._is_in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self.crowd.enter(self._peer):
            self.transport.abort()
        self._wait_for("head")

    def connection_lost(self, exc: Exception | None) -> None:
        self.crowd.leave(self._peer)
        for name in list(self._timers):
            self._has_come(name)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.response_complete:
            self._wait_for("head")  # of the next request; other bytes do not extend the time
        self._num_outside += len(data)
        super().data_received(data)
        if self._num_outside > MAX_HEAD_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait_for("head")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_body:  # a trailer
            self.transport.abort()
        else:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._has_come("head")
        self._num_outside, self._is_in_body = 0, True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._num_outside = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._num_outside, self._is_in_body = 0, False
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for("reader")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._has_come("reader")

    @property
    def _peer(self) -> str:
        return self.client[0] if self.client else ""

    def _wait_for(self, what: str) -> None:
        if what not in self._timers:
            cut_off = self.transport.abort
            self._timers[what] = self.loop.call_later(self.patience_seconds, cut_off)

    def _has_come(self, what: str) -> None:
        if timer := self._timers.pop(what, None):
            timer.cancel()


def guarded(seconds: float, crowd: Crowd) -> type[GuardedHttp]:
    """Make the protocol class with that patience, for the connections of one server."""
    return type("GuardedHttp", (GuardedHttp,), {"patience_seconds": seconds, "crowd": crowd})
