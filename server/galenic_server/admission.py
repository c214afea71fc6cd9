"""
How tenants come to the engine: in their turn, counted, and not with what has killed it before.
"""

import hashlib
import hmac
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial

from galenic_adapters.errors import EngineDied, Quarantined
from galenic_server.engine.base import AnyTime, Pass, Work
from galenic_server.fairness import Turn, Turns

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

    def check(self, work: Work) -> None:
        """Raises `Quarantined`."""
        self._forget_old()
        if self._deaths and self._count(self._hash(work)) >= self._num_deaths:
            raise Quarantined("the engine died each time that it was asked this")

    @contextmanager
    def watch(self, work: Work) -> Iterator[None]:
        """
        Around *work* in the engine. Raises `Quarantined` in place of the `EngineDied` that was one
        too many. Requests alike that die together have met one death.
        """
        began = self._clock()
        try:
            yield
        except EngineDied:
            hashed = self._hash(work)
            last, count = self._deaths.get(hashed, (-math.inf, 0))
            if last < began:
                self._remember(hashed, count + 1)
            self.check(work)
            raise

    def _remember(self, hashed: bytes, num_deaths: int) -> None:
        self._deaths[hashed] = (self._clock(), num_deaths)
        self._deaths.move_to_end(hashed)
        if len(self._deaths) > MOST_SUSPECTS:
            self._deaths.popitem(last=False)

    def _count(self, hashed: bytes) -> int:
        return self._deaths.get(hashed, (0.0, 0))[1]

    def _forget_old(self) -> None:
        horizon = self._clock() - QUARANTINE_SECONDS
        while self._deaths and next(iter(self._deaths.values()))[0] < horizon:
            self._deaths.popitem(last=False)

    def _hash(self, work: Work) -> bytes:
        asked = repr((work.tenant, work.adapter, list(work.text_ids), work.how))
        return hmac.new(self._key, asked.encode(), hashlib.sha256).digest()


@dataclass(slots=True)
class Admitted:
    """The `Pass` of a request: what it says is charged to its tenant, and written down."""

    turn: Turn
    used: Used
    spend: Callable[[int], None]

    @property
    def priority(self) -> int:
        return self.turn.priority

    def said(self, num_tokens: int) -> None:
        self.turn.num_tokens += num_tokens
        self.used.num_completion_tokens += num_tokens
        self.spend(num_tokens)


class Admission:
    """The `Gate` of a server: every tenant in its turn, counted, and not with what kills."""

    def __init__(
        self,
        turns: Turns,
        quarantine: Quarantine,
        *,
        spend: Callable[[str, int], None] = lambda tenant, num_tokens: None,
    ) -> None:
        self.turns = turns
        self._quarantine = quarantine
        self._spend = spend

    @asynccontextmanager
    async def enter(self, work: Work) -> AsyncIterator[Pass]:
        if not work.tenant:  # the engine's own, at its start
            yield AnyTime()
            return
        self._quarantine.check(work)
        num_prompt = len(work.text_ids)
        used = _used_by(work)
        async with self.turns.take(work.tenant, num_prompt + work.max_tokens) as turn:
            self._spend(work.tenant, num_prompt)
            turn.num_tokens = num_prompt
            used.num_prompt_tokens += num_prompt
            with self._quarantine.watch(work):
                yield Admitted(turn, used, partial(self._spend, work.tenant))
        used.num_answers += 1


def _used_by(work: Work) -> Used:
    ledger = LEDGER.get()
    return ledger.of(work.adapter) if ledger else Used()
