"""
Which adapter sits in which place of the engine's prompt table.

A seat is held while requests use it and is never given away meanwhile. Adapters that nobody holds
stay until their place is needed, the longest unused leaving first. Where every place is held,
newcomers wait in the order they came. A slot's number says nothing about its content: caches go by
the adapter's digest.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from galenic_adapters.factor import Factor


@dataclass(frozen=True, slots=True)
class Place:
    """A slot, and the components that hold the factor's ranks."""

    slot: int
    components: tuple[int, ...]


@dataclass(eq=False, slots=True)
class Seat:
    """An adapter in a place: how many hold it, and the task that brings it there."""

    digest: str
    num_holds: int = 0
    place: Place | None = None
    seating: "asyncio.Task[Place]" = field(init=False)

    @property
    def is_seated(self) -> bool:
        return self.seating.done() and not self.seating.cancelled() and not self.seating.exception()


Fetch = Callable[[str], Awaitable[Factor]]
Load = Callable[[Place, Factor], Awaitable[None]]


class Slots:
    """
    The table of seats; of one event loop.

    *fetch* brings the factor of a digest, *load* writes it into the engine; what they raise reaches
    everyone who waits for that seat, and the seat is free again.
    """

    def __init__(self, num_slots: int, num_components: int, *, fetch: Fetch, load: Load) -> None:
        self._fetch = fetch
        self._load = load
        self._free_slots = list(reversed(range(num_slots)))
        self._free_components = list(reversed(range(1, num_components + 1)))
        self._seats: dict[str, Seat] = {}  # the longest unused first
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()
        self.num_loads = 0
        self.num_evictions = 0

    @asynccontextmanager
    async def hold(self, digest: str) -> AsyncIterator[Place]:
        """The place of *digest*, brought there if need be, and kept until the block ends."""
        seat = self._seats.pop(digest, None) or self._new_seat(digest)
        self._seats[digest] = seat
        seat.num_holds += 1
        try:
            yield await asyncio.shield(seat.seating)
        finally:
            self._let_go(seat)

    def evict(self, digest: str) -> None:
        """Forget *digest*; its place is free once nobody holds it."""
        seat = self._seats.pop(digest, None)
        if seat is not None and not seat.num_holds:
            self._vacate(seat)

    def seated(self) -> dict[str, Place]:
        """The residents: every digest that a request would find in its place."""
        return {
            digest: seat.place
            for digest, seat in self._seats.items()
            if seat.is_seated and seat.place is not None
        }

    def _new_seat(self, digest: str) -> Seat:
        seat = Seat(digest, num_holds=1)  # the seating's own, so nobody takes the place meanwhile
        seat.seating = asyncio.create_task(self._bring(seat))
        seat.seating.add_done_callback(lambda task: self._arrived(seat, task))
        return seat

    async def _bring(self, seat: Seat) -> Place:
        factor = await self._fetch(seat.digest)
        seat.place = await self._find_place(factor.rank)
        await self._load(seat.place, factor)
        self.num_loads += 1
        return seat.place

    def _arrived(self, seat: Seat, task: "asyncio.Task[Place]") -> None:
        failed = task.cancelled() or task.exception() is not None
        if failed and self._seats.get(seat.digest) is seat:
            del self._seats[seat.digest]
        self._let_go(seat)

    async def _find_place(self, rank: int) -> Place:
        async with self._turn:
            while not self._make_room(rank):
                self._freed.clear()
                await self._freed.wait()
            components = tuple(self._free_components.pop() for _ in range(rank))
            return Place(self._free_slots.pop(), components)

    def _make_room(self, rank: int) -> bool:
        def has_room() -> bool:
            return bool(self._free_slots) and len(self._free_components) >= rank

        idle = [seat for seat in self._seats.values() if not seat.num_holds]
        for seat in idle:
            if has_room():
                break
            del self._seats[seat.digest]
            self._vacate(seat)
            self.num_evictions += 1
        return has_room()

    def _let_go(self, seat: Seat) -> None:
        seat.num_holds -= 1
        if seat.num_holds:
            return
        if self._seats.get(seat.digest) is seat:
            self._freed.set()  # idle: whoever waits may take its place
        else:
            self._vacate(seat)

    def _vacate(self, seat: Seat) -> None:
        if seat.place is not None:
            self._free_slots.append(seat.place.slot)
            self._free_components.extend(seat.place.components)
            seat.place = None
        self._freed.set()


async def seat_all(slots: Slots, digests: Sequence[str]) -> None:
    """Make *digests* resident, all at once; raises what the first that fails raised."""

    async def seat(digest: str) -> None:
        async with slots.hold(digest):
            pass

    await asyncio.gather(*map(seat, digests))
