"""
The engine as tenants meet it: in their turn, counted, and not killed twice by the same request.
"""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from galenic_adapters.errors import EngineDied, Quarantined
from galenic_server.engine.base import Delta, Engine, EngineConfig, EngineStats, Request
from galenic_server.fairness import Turns

QUARANTINE_SECONDS = 3600.0
MOST_SUSPECTS = 10_000


@dataclass(slots=True)
class Used:
    """What one adapter did for a request."""

    num_answers: int = 0
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0


@dataclass(slots=True)
class Ledger:
    """What one HTTP request made the engine do, by the adapters' digests; none is the backbone."""

    by_digest: dict[str | None, Used] = field(default_factory=dict)

    def of(self, digest: str | None) -> Used:
        return self.by_digest.setdefault(digest, Used())


LEDGER: ContextVar[Ledger | None] = ContextVar("ledger", default=None)
"""Set where a request comes in; whatever it starts writes there."""


class Quarantine:
    """
    Requests that were in flight when the engine died, by a keyed hash of what they ask.

    One that was in flight at *num_deaths* deaths is kept from the engine for an hour.
    """

    def __init__(self, num_deaths: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._num_deaths = num_deaths
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._deaths: OrderedDict[bytes, tuple[float, int]] = OrderedDict()  # the oldest first

    def check(self, request: Request) -> None:
        """Raises `Quarantined`."""
        self._forget_old()
        if self._deaths and self._count(self._hash(request)) >= self._num_deaths:
            raise Quarantined("the engine died each time that it was asked this")

    def died_with(self, request: Request) -> None:
        """Raises `Quarantined` where this was one time too many."""
        hashed = self._hash(request)
        count = self._count(hashed) + 1
        self._deaths[hashed] = (self._clock(), count)
        self._deaths.move_to_end(hashed)
        if len(self._deaths) > MOST_SUSPECTS:
            self._deaths.popitem(last=False)
        self.check(request)

    def _count(self, hashed: bytes) -> int:
        return self._deaths.get(hashed, (0.0, 0))[1]

    def _forget_old(self) -> None:
        horizon = self._clock() - QUARANTINE_SECONDS
        while self._deaths and next(iter(self._deaths.values()))[0] < horizon:
            self._deaths.popitem(last=False)

    def _hash(self, request: Request) -> bytes:
        asked = replace(request, id="", priority=0, text_ids=tuple(request.text_ids))
        return hmac.new(self._key, repr(asked).encode(), hashlib.sha256).digest()


class Admitted:
    """An `Engine` whose requests wait their turn; *inner* is the one that answers."""

    def __init__(
        self,
        inner: Engine,
        turns: Turns,
        quarantine: Quarantine,
        *,
        spend: Callable[[str, int], None] = lambda tenant, num_tokens: None,
    ) -> None:
        self.inner = inner
        self.turns = turns
        self._quarantine = quarantine
        self._spend = spend

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        self._quarantine.check(request)
        num_prompt = len(request.text_ids)
        used = _used_by(request)
        async with self.turns.take(
            request.tenant, num_prompt + request.sampling.max_tokens
        ) as turn:
            asked = replace(request, priority=turn.priority)
            turn.num_tokens = num_prompt
            self._spend(request.tenant, num_prompt)
            used.num_prompt_tokens += num_prompt
            try:
                async with aclosing(self.inner.generate(asked)) as deltas:  # type: ignore[type-var]
                    async for delta in deltas:
                        turn.num_tokens += delta.num_tokens
                        self._spend(request.tenant, delta.num_tokens)
                        used.num_completion_tokens += delta.num_tokens
                        yield delta
            except EngineDied:
                self._quarantine.died_with(request)
                raise
        used.num_answers += 1

    # The rest is the inner one's

    @property
    def config(self) -> EngineConfig:
        return self.inner.config

    @property
    def tokenizer(self) -> Any:
        return self.inner.tokenizer

    async def start(self) -> None:
        await self.inner.start()

    async def stop(self) -> None:
        await self.inner.stop()

    async def healthy(self) -> bool:
        return await self.inner.healthy()

    async def seat(self, digests: Sequence[str]) -> None:
        await self.inner.seat(digests)

    async def evict(self, digest: str) -> None:
        await self.inner.evict(digest)

    async def stats(self) -> EngineStats:
        return await self.inner.stats()


def _used_by(request: Request) -> Used:
    ledger = LEDGER.get()
    return ledger.of(request.adapter) if ledger else Used()
