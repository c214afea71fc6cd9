"""
Queues requests of tenants for the engine by start-time fair queueing (Goyal et al., 1996).

Every tenant has a virtual time that grows by its tokens divided by its weight. The tenant furthest
behind goes next; one that was idle starts at the current virtual time, so nobody saves up credit.
A flood waits here and not in the engine, which holds few enough requests that a newcomer is hardly
slowed: *most* while one tenant is alone, *shared* while others were seen in the last seconds. The
engine is never idle while a request waits.
"""

import asyncio
import heapq
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from galenic_adapters.errors import LimitReached

ALONE_AFTER_SECONDS = 5.0


@dataclass(slots=True)
class Turn:
    """
    Holds one request's stay in the engine.

    start: its virtual time, which is the engine's priority (lower goes first).   num_tokens: the
    tokens charged in advance; to be set to the tokens really used.
    """

    start: float
    num_tokens: float

    @property
    def priority(self) -> int:
        return int(self.start)


@dataclass(eq=False, slots=True)
class Waiting:
    num_tokens: float
    num_places: int
    admitted: "asyncio.Future[Turn]"


@dataclass(slots=True)
class Line:
    """Holds a tenant's queue of waiting requests, and its virtual time."""

    start: float = 0.0
    num_running: int = 0
    waiting: "deque[Waiting]" = field(default_factory=deque)

    def first(self) -> Waiting | None:
        """Return the first request that still waits; cancelled ones are dropped."""
        while self.waiting and self.waiting[0].admitted.cancelled():
            self.waiting.popleft()
        return self.waiting[0] if self.waiting else None

    def forget(self, left: Waiting) -> None:
        if left in self.waiting:
            self.waiting.remove(left)


class Turns:
    """
    Decides which tenant's request enters the engine next; for use in one event loop.

    A request takes a place for each of its answers.

    most: places in the engine.   shared: the same while several tenants are active.
    max_waiting: the most waiting requests of a tenant; more raise `LimitReached`.
    """

    def __init__(
        self,
        *,
        most: int,
        shared: int,
        max_waiting: int = 4096,
        weight_of: Callable[[str], float] = lambda tenant: 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._shared = min(shared, most)
        self._max_waiting = max_waiting
        self._weight_of = weight_of
        self._clock = clock
        self._lines: dict[str, Line] = {}
        self._order: list[tuple[float, str]] = []  # a heap of each line's next start
        self._now = 0.0  # the virtual time: the start of the request admitted last
        self._last_seen: OrderedDict[str, float] = OrderedDict()
        self.num_running = 0

    @asynccontextmanager
    async def take(
        self, tenant: str, num_tokens: float, *, num_places: int = 1
    ) -> AsyncIterator[Turn]:
        """
        Wait for a turn for a request of at most *num_tokens*, and hold it for the block.

        One free place admits it, so a request of many answers may go beyond the places there are.

        Set the turn's *num_tokens* to the tokens really used: the difference is refunded.
        """
        line = self._lines.setdefault(tenant, Line())
        turn = await self._wait(tenant, line, num_tokens, num_places)
        try:
            yield turn
        finally:
            self._end(tenant, line, turn.num_tokens - num_tokens, num_places)

    @property
    def num_waiting(self) -> int:
        return sum(len(line.waiting) for line in self._lines.values())

    async def _wait(self, tenant: str, line: Line, num_tokens: float, num_places: int) -> Turn:
        if len(line.waiting) >= self._max_waiting:
            raise LimitReached(f"{self._max_waiting:,} requests of this tenant wait already", 5)
        waiting = Waiting(num_tokens, num_places, asyncio.get_running_loop().create_future())
        if not line.waiting:
            line.start = max(line.start, self._now)
        line.waiting.append(waiting)
        self._line_up(tenant, line)
        self._seen(tenant)
        self._admit()
        try:
            return await waiting.admitted
        except asyncio.CancelledError:
            if waiting.admitted.cancelled():
                line.forget(waiting)
            else:
                # admitted and cancelled at the same time
                self._end(tenant, line, -num_tokens, num_places)
            raise

    def _line_up(self, tenant: str, line: Line) -> None:
        if line.waiting:
            heapq.heappush(self._order, (line.start, tenant))

    def _admit(self) -> None:
        while self._order:
            start, tenant = self._order[0]
            line = self._lines.get(tenant)
            if line is None or start != line.start or not line.first():
                heapq.heappop(self._order)  # stale: the line is empty, or has moved in the heap
            elif self._has_room(line):
                heapq.heappop(self._order)
                self._admit_first(tenant, line)
            else:
                return

    def _admit_first(self, tenant: str, line: Line) -> None:
        first = line.waiting.popleft()
        self._now = line.start
        self.num_running += first.num_places
        line.num_running += first.num_places
        first.admitted.set_result(Turn(line.start, first.num_tokens))
        line.start += first.num_tokens / self._weight_of(tenant)
        self._line_up(tenant, line)

    def _has_room(self, line: Line) -> bool:
        """Tell whether the line's next may enter; with none inside, a tenant may use any place."""
        is_held_back = line.num_running > 0 and self._is_shared()
        return self.num_running < (self._shared if is_held_back else self._most)

    def _end(self, tenant: str, line: Line, num_more_tokens: float, num_places: int) -> None:
        self.num_running -= num_places
        line.num_running -= num_places
        line.start += num_more_tokens / self._weight_of(tenant)
        self._line_up(tenant, line)
        self._seen(tenant)
        if not (line.waiting or line.num_running) and line.start <= self._now:
            self._lines.pop(tenant, None)
        self._admit()

    def _seen(self, tenant: str) -> None:
        self._last_seen[tenant] = self._clock()
        self._last_seen.move_to_end(tenant)

    def _is_shared(self) -> bool:
        """Tell whether several tenants have requests here, or had some in the last seconds."""
        horizon = self._clock() - ALONE_AFTER_SECONDS
        while self._last_seen:
            tenant, at = next(iter(self._last_seen.items()))
            if at >= horizon:
                break
            line = self._lines.get(tenant)
            if line and (line.waiting or line.num_running):
                self._seen(tenant)
            else:
                del self._last_seen[tenant]
        return len(self._last_seen) > 1
