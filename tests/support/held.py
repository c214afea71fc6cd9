"""
Holds a running server's vLLM still: answers stop after their first piece until they are let go, or
end as they do when the engine's process dies.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from galenic_adapters.errors import EngineDied
from tests.support.serving import Running, eventually


class Held:
    """Wraps an engine's core; *held* are the ids of requests that stand still."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._is_open = threading.Event()
        self._is_dead = threading.Event()
        self.held: list[str] = []
        self.let_go = self._is_open.set
        self.die = self._is_dead.set

    def wait_for(self, count: int) -> None:
        eventually(lambda: len(self.held) == count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    async def generate(self, id_: str, *more: Any, **named: Any) -> AsyncGenerator[Any]:
        async with aclosing(self._core.generate(id_, *more, **named)) as pieces:
            async for piece in pieces:
                yield piece
                await self._stand_still(id_)

    async def _stand_still(self, id_: str) -> None:
        self.held.append(id_)
        try:
            while not self._is_open.is_set():
                if self._is_dead.is_set():
                    raise EngineDied("the engine died")
                await asyncio.sleep(0.002)
        finally:
            self.held.remove(id_)


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
    """Hold the server's engine until the block ends."""
    engine: Any = running.parts.service.engine
    core = engine.core
    engine.core = still = Held(core)
    try:
        yield still
    finally:
        still.let_go()
        engine.core = core
