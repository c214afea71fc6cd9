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
from tests.support.serving import Running, eventually

Work = Callable[..., AsyncGenerator[Any]]


class Held:
    """What it works on, stopped; *held* are the requests that stand still."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._is_open = threading.Event()
        self._is_dead = threading.Event()
        self.held: list[Any] = []
        self.let_go = self._is_open.set
        self.die = self._is_dead.set

    def wait_for(self, count: int) -> None:
        eventually(lambda: len(self.held) == count)

    async def __call__(self, request: Any, *more: Any, **named: Any) -> AsyncGenerator[Any]:
        async with aclosing(self._work(request, *more, **named)) as pieces:
            async for piece in pieces:
                yield piece
                await self._stand_still(request)

    async def _stand_still(self, request: Any) -> None:
        self.held.append(request)
        try:
            while not self._is_open.is_set():
                if self._is_dead.is_set():
                    raise EngineDied("the engine died")
                await asyncio.sleep(0.002)
        finally:
            self.held.remove(request)


@contextmanager
def set_to(running: Running, **settings: Any) -> Iterator[None]:
    """Other settings of the running server, of those that it reads at each request."""
    now = vars(running.parts.settings)
    before = {name: now[name] for name in settings}
    now.update(settings)
    try:
        yield
    finally:
        now.update(before)


@contextmanager
def held(running: Running) -> Iterator[Held]:
    """The server's engine, held until the block ends."""
    engine: Any = running.parts.service.engine
    name = "_decode" if hasattr(engine, "_decode") else "_run"  # transformers', and vLLM's
    work = getattr(engine, name)
    still = Held(work)
    setattr(engine, name, still)
    try:
        yield still
    finally:
        still.let_go()
        setattr(engine, name, work)
