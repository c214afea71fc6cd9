"""
The running server's real engine, held still by a test: answers stop after their first piece until
they are let go, or end as when the engine's process dies.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from galenic_adapters.errors import EngineDied
from galenic_server.engine.base import Delta, Request
from tests.support.serving import Running, eventually

Decode = Callable[[Request], AsyncGenerator[Delta]]


class Held:
    """What it works on, stopped; *held* are the requests that stand still."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._is_open = threading.Event()
        self._is_dead = threading.Event()
        self.held: list[Request] = []
        self.let_go = self._is_open.set
        self.die = self._is_dead.set

    def wait_for(self, count: int) -> None:
        eventually(lambda: len(self.held) == count)

    async def __call__(self, request: Request) -> AsyncGenerator[Delta]:
        async with aclosing(self._decode(request)) as deltas:
            async for delta in deltas:
                yield delta
                await self._stand_still(request)

    async def _stand_still(self, request: Request) -> None:
        self.held.append(request)
        try:
            while not self._is_open.is_set():
                if self._is_dead.is_set():
                    raise EngineDied("the engine died")
                await asyncio.sleep(0.002)
        finally:
            self.held.remove(request)


@contextmanager
def held(running: Running) -> Iterator[Held]:
    """The server's engine (on transformers), held until the block ends."""
    engine: Any = running.parts.service.engine
    decode = engine._decode
    engine._decode = still = Held(decode)
    try:
        yield still
    finally:
        still.let_go()
        engine._decode = decode
