"""Who sits where: nobody is moved while held, and nobody waits for good."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from galenic_adapters.errors import NotFound
from galenic_adapters.factor import Factor
from galenic_server.engine.slots import Seated, Slots


async def seat_all(slots: Slots, digests: Iterable[str]) -> None:
    """As requests that come at once do."""

    async def seat(digest: str) -> None:
        async with slots.hold(digest):
            pass

    await asyncio.gather(*map(seat, digests))


class Table:
    """The engine's side: what was written where, and the factors that exist."""

    def __init__(self, ranks: dict[str, int], num_slots: int, num_components: int) -> None:
        self.ranks = ranks
        self.content: dict[int, str] = {}
        self.loads: Counter[str] = Counter()
        self.slots = Slots(num_slots, num_components, fetch=self.fetch, load=self.load)
        self._factors: dict[int, str] = {}

    async def fetch(self, digest: str) -> Factor:
        await asyncio.sleep(0)
        if digest not in self.ranks:
            raise NotFound(digest)
        factor = Factor(torch.ones(2, self.ranks[digest]), torch.ones(self.ranks[digest], 3))
        self._factors[id(factor)] = digest
        return factor

    async def load(self, seated: Sequence[Seated]) -> None:
        await asyncio.sleep(0)
        for one in seated:
            digest = self._factors[id(one.adapter)]
            self.loads[digest] += 1
            for component in one.place.components:
                self.content[component] = digest

    async def take(self, digests: Iterable[str], **how: bool) -> bool:
        return await self.slots.take({one: await self.fetch(one) for one in digests}, **how)


@settings(deadline=None)  # a busy machine is no fault of the table's
@given(
    seed=st.integers(0, 2**32),
    num_slots=st.integers(1, 5),
    ranks=st.lists(st.integers(1, 4), min_size=1, max_size=12),
)
def test_whoever_is_held_stays(seed, num_slots, ranks):
    """
    Holds, deletions and give-ups in any order: a held place holds its own adapter and no other,
    everyone gets a turn, and in the end every place is there again.
    """
    chance = random.Random(seed)
    num_components = max(ranks) + chance.randrange(6)

    async def scenario():
        table = Table({f"a{i}": rank for i, rank in enumerate(ranks)}, num_slots, num_components)

        async def use(digest):
            async with table.slots.hold(digest) as place:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                    assert {digest} == {table.content[c] for c in place.components}
                    assert len(place.components) == table.ranks[digest]

        async def take(digests, may_evict):
            await table.take(digests, may_evict=may_evict)

        tasks = []
        for _ in range(40):
            digest = chance.choice(list(table.ranks))
            tasks.append(asyncio.create_task(use(digest)))
            await asyncio.sleep(0)
            if chance.random() < 0.2:
                table.slots.evict(digest)
            if chance.random() < 0.2:
                chance.choice(tasks).cancel()
            if chance.random() < 0.2:
                some = chance.sample(list(table.ranks), chance.randrange(len(ranks)) + 1)
                tasks.append(asyncio.create_task(take(some, chance.random() < 0.5)))
        async with asyncio.timeout(120):
            done = await asyncio.gather(*tasks, return_exceptions=True)
            await settle()
        assert all(one is None or isinstance(one, asyncio.CancelledError) for one in done)

        for digest in list(table.ranks):
            table.slots.evict(digest)
        free = table.slots._free_slots, table.slots._free_components
        slots, components = ({pool.get() for _ in range(len(pool))} for pool in free)
        assert set(range(1, num_slots + 1)) == slots
        assert set(range(1, num_components + 1)) == components

    asyncio.run(scenario())


async def settle():
    """Let everything that was begun come to its end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)  # a task's callbacks run after it is done


class TestSeats:
    def test_two_who_ask_at_once_load_once(self):
        """
        The second waits for the first one's load.
        """

        async def scenario():
            table = Table({"a": 1}, num_slots=2, num_components=2)
            await seat_all(table.slots, ["a"] * 5)
            return table

        assert Counter(a=1) == asyncio.run(scenario()).loads

    def test_the_longest_unused_leaves(self):
        """
        Of a, b and c in two slots, using a again makes b the one to go.
        """

        async def scenario():
            table = Table(dict.fromkeys("abc", 1), num_slots=2, num_components=2)
            for digest in "abac":
                await seat_all(table.slots, [digest])
            return table.slots

        slots = asyncio.run(scenario())
        assert {"a", "c"} == slots.seated().keys()
        assert (3, 1) == (slots.num_loads, slots.num_evictions)

    def test_a_high_rank_takes_the_room_of_several(self):
        """
        Components are what is scarce: rank 4 sends four of rank 1 away, and the slots stay.
        """

        async def scenario():
            table = Table(dict.fromkeys("abcd", 1) | {"high": 4}, num_slots=8, num_components=4)
            await seat_all(table.slots, [*"abcd", "high"])
            return table.slots.seated()

        assert {"high"} == asyncio.run(scenario()).keys()

    def test_newcomers_wait_while_all_are_held(self):
        """
        One slot, held: the next is seated only once it is let go.
        """

        async def scenario():
            table = Table({"a": 1, "b": 1}, num_slots=1, num_components=1)
            async with AsyncExitStack() as held:
                await held.enter_async_context(table.slots.hold("a"))
                waiting = asyncio.create_task(seat_all(table.slots, ["b"]))
                for _ in range(20):
                    await asyncio.sleep(0)
                assert not waiting.done()
            await waiting
            return table.slots.seated()

        assert {"b"} == asyncio.run(scenario()).keys()

    def test_one_deleted_while_held_leaves_when_let_go(self):
        """
        Its holder finishes undisturbed; nobody new finds it.
        """

        async def scenario():
            table = Table({"a": 1, "b": 1}, num_slots=1, num_components=1)
            async with table.slots.hold("a") as place:
                table.slots.evict("a")
                del table.ranks["a"]
                assert {} == table.slots.seated()
                assert "a" == table.content[place.components[0]]
                with pytest.raises(NotFound):
                    await seat_all(table.slots, ["a"])
            await seat_all(table.slots, ["b"])
            return table.slots.seated()

        assert {"b"} == asyncio.run(scenario()).keys()

    def test_one_that_fails_leaves_no_trace(self):
        """
        Everyone who waits hears why, and the next attempt is a new one.
        """

        async def scenario():
            table = Table({}, num_slots=1, num_components=1)
            failed = await asyncio.gather(
                *(seat_all(table.slots, ["a"]) for _ in range(3)), return_exceptions=True
            )
            table.ranks["a"] = 1
            await seat_all(table.slots, ["a"])
            return failed, table.slots.seated()

        failed, seated = asyncio.run(scenario())
        assert [NotFound] * 3 == [type(error) for error in failed]
        assert {"a"} == seated.keys()


class TestManyAtOnce:
    def test_are_one_load(self):
        """
        Who has a seat already is not brought again.
        """

        async def scenario():
            table = Table(dict.fromkeys("abc", 1), num_slots=4, num_components=4)
            await table.take("a")
            return await table.take("abc"), table

        had_room, table = asyncio.run(scenario())
        assert had_room
        assert Counter(a=1, b=1, c=1) == table.loads
        assert 3 == table.slots.num_seated == len(table.slots.seated())

    def test_wait_for_nobody(self):
        """
        Of three that come to two slots the first two are seated; a place that is held stays.
        """

        async def scenario():
            table = Table(dict.fromkeys("habc", 1), num_slots=2, num_components=2)
            async with table.slots.hold("h"):
                had_room = await table.take("abc")
                return had_room, set(table.slots.seated())

        assert (False, {"h", "a"}) == asyncio.run(scenario())

    def test_may_have_to_leave_those_who_sit(self):
        """
        What is loaded at the start sends nobody away, however full it is.
        """

        async def scenario():
            table = Table(dict.fromkeys("abc", 1), num_slots=2, num_components=2)
            await table.take("a")
            had_room = await table.take("bc", may_evict=False)
            return had_room, set(table.slots.seated()), table.slots.num_evictions

        assert (False, {"a", "b"}, 0) == asyncio.run(scenario())

    def test_fail_together(self):
        """
        An engine that dies under a load leaves every place of it free.
        """

        async def scenario():
            table = Table(dict.fromkeys("abc", 1), num_slots=3, num_components=3)
            table._factors = {}  # what is loaded now is unknown, a KeyError
            with pytest.raises(KeyError):
                await table.slots.take(
                    {d: Factor(torch.ones(2, 1), torch.ones(1, 3)) for d in "ab"}
                )
            await asyncio.sleep(0)
            seated = table.slots.num_seated
            return seated, await table.take("abc")

        assert (0, True) == asyncio.run(scenario())
