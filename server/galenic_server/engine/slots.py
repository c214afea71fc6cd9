"""
Assigns adapters to slots of the engine's tables, with room for their prompts.

A slot is held while requests use its adapter, and never reassigned meanwhile. Idle adapters stay
resident until their slot is needed; the least recently used is evicted first. If every slot is
held, newcomers wait in order of arrival. A slot's number does not identify its content: caches are
keyed by the adapter's digest.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from galenic_adapters.factor import Composed


@dataclass(frozen=True, slots=True)
class Prompt:
    """Names a prompt by its digest, with the bytes of its keys and values."""

    digest: str
    num_positions: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Holds an adapter's slot, from 1 on, and its prompt, if it has one."""

    slot: int
    prompt: Prompt | None


@dataclass(eq=False, slots=True)
class Occupant:
    """Tracks an adapter in a slot: how many requests hold it, and the task that loads it."""

    digest: str
    num_holds: int = 0
    place: Placement | None = None
    seating: "asyncio.Task[None]" = field(init=False)

    @property
    def is_seated(self) -> bool:
        return self.seating.done() and not self.seating.cancelled() and not self.seating.exception()


class Pool:
    """Gives out free numbers; returned ones are reused first, so fewer pages are touched."""

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


class Shelf:
    """Counts the bytes of residents' prompts; a prompt that several share counts once."""

    def __init__(self, num_bytes: int) -> None:
        self._free_bytes = num_bytes
        self._num_owners: dict[str, int] = {}

    def __contains__(self, digest: str) -> bool:
        return digest in self._num_owners

    def has_room(self, prompt: Prompt | None) -> bool:
        return prompt is None or prompt.digest in self or prompt.num_bytes <= self._free_bytes

    def put(self, prompt: Prompt) -> None:
        if prompt.digest not in self:
            self._free_bytes -= prompt.num_bytes
        self._num_owners[prompt.digest] = self._num_owners.get(prompt.digest, 0) + 1

    def take_away(self, prompt: Prompt) -> None:
        """Undo one `put`; a prompt's room is free once every `put` was undone."""
        self._num_owners[prompt.digest] -= 1
        if not self._num_owners[prompt.digest]:
            del self._num_owners[prompt.digest]
            self._free_bytes += prompt.num_bytes


@dataclass(frozen=True, eq=False, slots=True)
class Seated:
    """Pairs an adapter with its slot, for loading."""

    digest: str
    place: Placement
    adapter: Composed


Fetch = Callable[[str], Awaitable[Composed]]
Load = Callable[[Sequence[Seated]], Awaitable[None]]
PromptOf = Callable[[Composed], Prompt | None]


class Slots:
    """
    Manages all slots; for use in one event loop. Every operation takes constant time.

    *fetch* returns the adapter of a digest, *load* writes adapters into the engine. If either
    raises, everyone who waits for that adapter gets the error, and the slot is free again.
    *prompt_of* returns the room that an adapter's prompt takes.
    """

    def __init__(
        self, num_slots: int, prompt_bytes: int, *, fetch: Fetch, load: Load, prompt_of: PromptOf
    ) -> None:
        self._fetch = fetch
        self._load = load
        self._prompt_of = prompt_of
        self._free_slots = Pool(range(1, num_slots + 1))
        self.prompts = Shelf(prompt_bytes)
        self._seats: dict[str, Occupant] = {}
        self._idle: dict[str, Occupant] = {}  # held by nobody, longest unused first
        self._coming: set[Occupant] = set()
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()
        self.num_loads = 0
        self.num_evictions = 0

    @asynccontextmanager
    async def hold(self, digest: str) -> AsyncIterator[Placement]:
        """Hold the slot of *digest* for the block, loading the adapter if needed."""
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

    async def take(self, adapters: Mapping[str, Composed], *, may_evict: bool = True) -> bool:
        """
        Seat the adapters that are not resident, in one load; returns whether all had room.

        It never waits for a slot: an adapter without one is seated at its first request.
        """
        new: list[Occupant] = []
        for digest in [d for d in adapters if d not in self._seats]:
            prompt = self._prompt_of(adapters[digest])
            if not (self._make_room(prompt) if may_evict else self._has_room(prompt)):
                break
            new.append(Occupant(digest, num_holds=1, place=self._take_place(prompt)))
        if new:
            loading = self._load_seats({seat: adapters[seat.digest] for seat in new})
            self._begin(new, asyncio.create_task(loading))
            await asyncio.shield(new[0].seating)
        return all(digest in self._seats for digest in adapters)

    def evict(self, digest: str) -> None:
        """Evict *digest*; its slot is free once nobody holds it."""
        seat = self._seats.pop(digest, None)
        self._idle.pop(digest, None)
        if seat is not None and not seat.num_holds:
            self._vacate(seat)

    def find(self, digest: str) -> Placement | None:
        """Return the slot of *digest*, if it is assigned already."""
        seat = self._seats.get(digest)
        return seat.place if seat else None

    def seated(self) -> dict[str, Placement]:
        """Return the slots of all residents, by digest; those still loading are left out."""
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
        """Tell whether *digest* is resident or being loaded."""
        return digest in self._seats

    def _new_seat(self, digest: str) -> Occupant:
        # The seating holds it itself, so that nobody takes the place meanwhile.
        seat = Occupant(digest, num_holds=1)
        self._begin([seat], asyncio.create_task(self._bring(seat)))
        return seat

    def _begin(self, seats: Sequence[Occupant], seating: "asyncio.Task[None]") -> None:
        for seat in seats:
            seat.seating = seating
            self._seats[seat.digest] = seat
        self._coming.update(seats)
        seating.add_done_callback(lambda task: self._arrived(seats, task))

    async def _bring(self, seat: Occupant) -> None:
        adapter = await self._fetch(seat.digest)
        seat.place = await self._find_place(self._prompt_of(adapter))
        await self._load_seats({seat: adapter})

    async def _load_seats(self, adapters: Mapping[Occupant, Composed]) -> None:
        placed = [
            Seated(seat.digest, seat.place, adapter)
            for seat, adapter in adapters.items()
            if seat.place
        ]
        await self._load(placed)
        self.num_loads += len(placed)

    def _arrived(self, seats: Sequence[Occupant], task: "asyncio.Task[None]") -> None:
        failed = task.cancelled() or task.exception() is not None
        for seat in seats:
            self._coming.discard(seat)
            if failed and self._seats.get(seat.digest) is seat:
                del self._seats[seat.digest]
            self._let_go(seat)

    async def _find_place(self, prompt: Prompt | None) -> Placement:
        async with self._turn:
            while not self._make_room(prompt):
                self._freed.clear()
                await self._freed.wait()
            return self._take_place(prompt)

    def _take_place(self, prompt: Prompt | None) -> Placement:
        if prompt is not None:
            self.prompts.put(prompt)
        return Placement(self._free_slots.get(), prompt)

    def _has_room(self, prompt: Prompt | None) -> bool:
        return len(self._free_slots) > 0 and self.prompts.has_room(prompt)

    def _make_room(self, prompt: Prompt | None) -> bool:
        while self._idle and not self._has_room(prompt):
            self.evict(next(iter(self._idle)))
            self.num_evictions += 1
        return self._has_room(prompt)

    def _let_go(self, seat: Occupant) -> None:
        seat.num_holds -= 1
        if seat.num_holds:
            return
        if self._seats.get(seat.digest) is seat:
            self._idle[seat.digest] = seat
            self._freed.set()  # whoever waits may take its place
        else:
            self._vacate(seat)

    def _vacate(self, seat: Occupant) -> None:
        if seat.place is not None:
            self._free_slots.put(seat.place.slot)
            if seat.place.prompt is not None:
                self.prompts.take_away(seat.place.prompt)
            seat.place = None
        self._freed.set()
