"""
Which adapter sits in which place of the engine's tables.

A seat is held while requests use it and is never given away meanwhile. Adapters that nobody holds
stay until their place is needed, the longest unused leaving first. Where every place is held,
newcomers wait in the order they came. A slot's number says nothing about its content: caches go by
the adapter's digest.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from galenic_server.engine.contract import Adapter, num_components


@dataclass(frozen=True, slots=True)
class Place:
    """A slot, from 1 on, and the components that hold a factor's ranks."""

    slot: int
    components: tuple[int, ...]


@dataclass(eq=False, slots=True)
class Seat:
    """An adapter in a place: how many hold it, and the task that brings it there."""

    digest: str
    num_holds: int = 0
    place: Place | None = None
    seating: "asyncio.Task[None]" = field(init=False)

    @property
    def is_seated(self) -> bool:
        return self.seating.done() and not self.seating.cancelled() and not self.seating.exception()


class Pool:
    """Numbers to give away: those that came back first, so that no more are touched than needed."""

    def __init__(self, numbers: range) -> None:
        self._fresh = numbers
        self._returned: list[int] = []

    def __len__(self) -> int:
        return len(self._fresh) + len(self._returned)

    def get(self) -> int:
        if self._returned:
            return self._returned.pop()
        first, self._fresh = self._fresh[0], self._fresh[1:]
        return first

    def put(self, number: int) -> None:
        self._returned.append(number)


@dataclass(frozen=True, eq=False, slots=True)
class Seated:
    """An adapter on its way to its place."""

    digest: str
    place: Place
    adapter: Adapter


Fetch = Callable[[str], Awaitable[Adapter]]
Load = Callable[[Sequence[Seated]], Awaitable[None]]


class Slots:
    """
    The table of seats; of one event loop. Nothing here takes longer the more seats there are.

    *fetch* brings the adapter of a digest, *load* writes some into the engine; what they raise
    reaches everyone who waits for that seat, and the seat is free again.
    """

    def __init__(self, num_slots: int, num_components: int, *, fetch: Fetch, load: Load) -> None:
        self._fetch = fetch
        self._load = load
        self._free_slots = Pool(range(1, num_slots + 1))
        self._free_components = Pool(range(1, num_components + 1))
        self._seats: dict[str, Seat] = {}
        self._idle: dict[str, Seat] = {}  # those of them that nobody holds, longest unused first
        self._coming: set[Seat] = set()
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()
        self.num_loads = 0
        self.num_evictions = 0

    @asynccontextmanager
    async def hold(self, digest: str) -> AsyncIterator[Place]:
        """The place of *digest*, brought there if need be, and kept until the block ends."""
        seat = self._seats.get(digest) or self._new_seat(digest)
        self._idle.pop(digest, None)
        seat.num_holds += 1
        try:
            if not seat.is_seated:
                await asyncio.shield(seat.seating)
            assert seat.place is not None, "it is seated"
            yield seat.place
        finally:
            self._let_go(seat)

    async def take(self, adapters: Mapping[str, Adapter], *, may_evict: bool = True) -> bool:
        """
        Seat those that have no seat yet, in one load; whether there was room for all.

        It waits for no place: what finds none is left for the first who asks for it.
        """
        new: list[Seat] = []
        for digest in [one for one in adapters if one not in self._seats]:
            num = num_components(adapters[digest])
            if not (self._make_room(num) if may_evict else self._has_room(num)):
                break
            new.append(Seat(digest, num_holds=1, place=self._take_place(num)))
        if new:
            loading = self._load_seats({seat: adapters[seat.digest] for seat in new})
            self._begin(new, asyncio.create_task(loading))
            await asyncio.shield(new[0].seating)
        return all(digest in self._seats for digest in adapters)

    def evict(self, digest: str) -> None:
        """Forget *digest*; its place is free once nobody holds it."""
        seat = self._seats.pop(digest, None)
        self._idle.pop(digest, None)
        if seat is not None and not seat.num_holds:
            self._vacate(seat)

    def seated(self) -> dict[str, Place]:
        """The residents: every digest that a request would find in its place."""
        return {
            digest: seat.place
            for digest, seat in self._seats.items()
            if seat.is_seated and seat.place is not None
        }

    @property
    def num_seated(self) -> int:
        is_coming = (self._seats.get(seat.digest) is seat for seat in self._coming)
        return len(self._seats) - sum(is_coming)

    def __contains__(self, digest: str) -> bool:
        """Whether it has a seat, or is on its way to one."""
        return digest in self._seats

    def _new_seat(self, digest: str) -> Seat:
        seat = Seat(digest, num_holds=1)  # the seating's own, so nobody takes the place meanwhile
        self._begin([seat], asyncio.create_task(self._bring(seat)))
        return seat

    def _begin(self, seats: Sequence[Seat], seating: "asyncio.Task[None]") -> None:
        for seat in seats:
            seat.seating = seating
            self._seats[seat.digest] = seat
        self._coming.update(seats)
        seating.add_done_callback(lambda task: self._arrived(seats, task))

    async def _bring(self, seat: Seat) -> None:
        adapter = await self._fetch(seat.digest)
        seat.place = await self._find_place(num_components(adapter))
        await self._load_seats({seat: adapter})

    async def _load_seats(self, adapters: Mapping[Seat, Adapter]) -> None:
        placed = [
            Seated(seat.digest, seat.place, adapter)
            for seat, adapter in adapters.items()
            if seat.place
        ]
        await self._load(placed)
        self.num_loads += len(placed)

    def _arrived(self, seats: Sequence[Seat], task: "asyncio.Task[None]") -> None:
        failed = task.cancelled() or task.exception() is not None
        for seat in seats:
            self._coming.discard(seat)
            if failed and self._seats.get(seat.digest) is seat:
                del self._seats[seat.digest]
            self._let_go(seat)

    async def _find_place(self, num: int) -> Place:
        async with self._turn:
            while not self._make_room(num):
                self._freed.clear()
                await self._freed.wait()
            return self._take_place(num)

    def _take_place(self, num: int) -> Place:
        components = tuple(self._free_components.get() for _ in range(num))
        return Place(self._free_slots.get(), components)

    def _has_room(self, num: int) -> bool:
        return len(self._free_slots) > 0 and len(self._free_components) >= num

    def _make_room(self, num: int) -> bool:
        while self._idle and not self._has_room(num):
            self.evict(next(iter(self._idle)))
            self.num_evictions += 1
        return self._has_room(num)

    def _let_go(self, seat: Seat) -> None:
        seat.num_holds -= 1
        if seat.num_holds:
            return
        if self._seats.get(seat.digest) is seat:
            self._idle[seat.digest] = seat
            self._freed.set()  # whoever waits may take its place
        else:
            self._vacate(seat)

    def _vacate(self, seat: Seat) -> None:
        if seat.place is not None:
            self._free_slots.put(seat.place.slot)
            for component in seat.place.components:
                self._free_components.put(component)
            seat.place = None
        self._freed.set()
