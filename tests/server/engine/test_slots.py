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

from galenic_adapters.errors import NotFound, Unavailable
from galenic_adapters.factor import Composed
from galenic_server.engine.slots import Prompt, Seated, Slots


async def seat_all(slots: Slots, digests: Iterable[str]) -> None:
    """As requests that come at once do."""

    async def seat(digest: str) -> None:
        async with slots.hold(digest):
            pass

    await asyncio.gather(*map(seat, digests))


ROW_BYTES = 10


def prompt_of(adapter: Composed) -> Prompt | None:
    """Ten bytes a position; adapters of one colour share their prompt."""
    if adapter.rows_PD is None:
        return None
    colour, num = int(adapter.rows_PD[0, 0]), adapter.num_positions
    return Prompt(f"prompt-{colour}", num, num * ROW_BYTES)


class Table:
    """The engine's side: what was written where, and the adapters that exist, by their prompts."""

    def __init__(self, prompts: dict[str, tuple[int, int]], num_slots: int, room: int) -> None:
        """*prompts*: colour and length of each; *room* is for so many positions of them."""
        self.prompts = prompts
        self.content: dict[int, str] = {}
        self.loads: Counter[str] = Counter()
        self.slots = Slots(
            num_slots, room * ROW_BYTES, fetch=self.fetch, load=self.load, prompt_of=prompt_of
        )
        self.is_dead = False

    async def fetch(self, digest: str) -> Composed:
        await asyncio.sleep(0)
        if digest not in self.prompts:
            raise NotFound(digest)
        colour, num_positions = self.prompts[digest]
        return Composed(torch.full((num_positions, 3), float(colour)) if num_positions else None)

    async def load(self, seated: Sequence[Seated]) -> None:
        await asyncio.sleep(0)
        if self.is_dead:
            raise Unavailable("the engine died")
        for one in seated:
            assert one.place.prompt is None or one.place.prompt.digest in self.slots.prompts
            self.loads[one.digest] += 1
            self.content[one.place.slot] = one.digest

    async def take(self, digests: Iterable[str], **how: bool) -> bool:
        return await self.slots.take({one: await self.fetch(one) for one in digests}, **how)


def of_one(names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Each with a prompt of its own, of one position."""
    return {name: (ord(name), 1) for name in names}


@settings(deadline=None)  # a busy machine is no fault of the table's
@given(
    seed=st.integers(0, 2**32),
    num_slots=st.integers(1, 5),
    colours=st.lists(st.integers(0, 4), min_size=1, max_size=12),
)
def test_whoever_is_held_stays(seed, num_slots, colours):
    """
    Holds, deletions and give-ups in any order: a held place holds its own adapter and no other, its
    prompt is at hand, everyone gets a turn, and in the end all room is there again.
    """
    chance = random.Random(seed)
    room = max(max(colours), 1) + chance.randrange(6)

    async def scenario():
        # The length is the colour: some have no prompt, and some share one.
        table = Table({f"a{i}": (it, it) for i, it in enumerate(colours)}, num_slots, room)

        async def use(digest):
            async with table.slots.hold(digest) as place:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                    assert digest == table.content[place.slot]
                    colour, _ = table.prompts[digest]
                    assert place.prompt is None or f"prompt-{colour}" == place.prompt.digest
                    assert place.prompt is None or place.prompt.digest in table.slots.prompts

        async def take(digests, may_evict):
            await table.take(digests, may_evict=may_evict)

        tasks = []
        for _ in range(40):
            digest = chance.choice(list(table.prompts))
            tasks.append(asyncio.create_task(use(digest)))
            await asyncio.sleep(0)
            if chance.random() < 0.2:
                table.slots.evict(digest)
            if chance.random() < 0.2:
                chance.choice(tasks).cancel()
            if chance.random() < 0.2:
                some = chance.sample(list(table.prompts), chance.randrange(len(colours)) + 1)
                tasks.append(asyncio.create_task(take(some, chance.random() < 0.5)))
        async with asyncio.timeout(120):
            done = await asyncio.gather(*tasks, return_exceptions=True)
            await settle()
        assert all(one is None or isinstance(one, asyncio.CancelledError) for one in done)

        for digest in list(table.prompts):
            table.slots.evict(digest)
        free = table.slots._free_slots
        assert set(range(1, num_slots + 1)) == {free.get() for _ in range(len(free))}
        assert table.slots.prompts.has_room(Prompt("any", room, room * ROW_BYTES))
        assert not any(f"prompt-{colour}" in table.slots.prompts for colour in colours)

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
            table = Table(of_one("a"), num_slots=2, room=2)
            await seat_all(table.slots, ["a"] * 5)
            return table

        assert Counter(a=1) == asyncio.run(scenario()).loads

    def test_the_longest_unused_leaves(self):
        """
        Using a again makes b the one to go for c.
        """

        async def scenario():
            table = Table(of_one("abc"), num_slots=2, room=2)
            for digest in "abac":
                await seat_all(table.slots, [digest])
            return table.slots

        slots = asyncio.run(scenario())
        assert {"a", "c"} == slots.seated().keys()
        assert (3, 1) == (slots.num_loads, slots.num_evictions)

    def test_a_long_prompt_takes_the_room_of_several(self):
        """
        Room for prompts is what is scarce: one of four positions sends four others away.
        """

        async def scenario():
            table = Table(of_one("abcd") | {"long": (0, 4)}, num_slots=8, room=4)
            await seat_all(table.slots, [*"abcd", "long"])
            return table.slots.seated()

        assert {"long"} == asyncio.run(scenario()).keys()

    def test_a_prompt_of_several_takes_its_room_once(self):
        """
        Four who share one sit beside a fifth, and it stays until the last of the four has left.
        """

        async def scenario():
            shared = dict.fromkeys("abcd", (7, 3))
            table = Table(shared | of_one("e"), num_slots=8, room=4)
            await seat_all(table.slots, "abcde")
            seated = set(table.slots.seated())
            for digest in "abc":
                table.slots.evict(digest)
            is_there = "prompt-7" in table.slots.prompts
            table.slots.evict("d")
            return seated, is_there, "prompt-7" in table.slots.prompts

        assert (set("abcde"), True, False) == asyncio.run(scenario())

    def test_newcomers_wait_while_all_are_held(self):
        """
        One slot, held: the next is seated only once it is let go.
        """

        async def scenario():
            table = Table(of_one("ab"), num_slots=1, room=1)
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
            table = Table(of_one("ab"), num_slots=1, room=1)
            async with table.slots.hold("a") as place:
                table.slots.evict("a")
                del table.prompts["a"]
                assert {} == table.slots.seated()
                assert "a" == table.content[place.slot]
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
            table = Table({}, num_slots=1, room=1)
            failed = await asyncio.gather(
                *(seat_all(table.slots, ["a"]) for _ in range(3)), return_exceptions=True
            )
            table.prompts |= of_one("a")
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
            table = Table(of_one("abc"), num_slots=4, room=4)
            await table.take("a")
            return await table.take("abc"), table

        had_room, table = asyncio.run(scenario())
        assert had_room
        assert Counter(a=1, b=1, c=1) == table.loads
        assert 3 == table.slots.num_seated == len(table.slots.seated())

    def test_wait_for_nobody(self):
        """
        The first two of three that come to two slots are seated; a held place stays.
        """

        async def scenario():
            table = Table(of_one("habc"), num_slots=2, room=2)
            async with table.slots.hold("h"):
                had_room = await table.take("abc")
                return had_room, set(table.slots.seated())

        assert (False, {"h", "a"}) == asyncio.run(scenario())

    def test_may_have_to_leave_those_who_sit(self):
        """
        What is loaded at the start sends nobody away, however full it is.
        """

        async def scenario():
            table = Table(of_one("abc"), num_slots=2, room=2)
            await table.take("a")
            had_room = await table.take("bc", may_evict=False)
            return had_room, set(table.slots.seated()), table.slots.num_evictions

        assert (False, {"a", "b"}, 0) == asyncio.run(scenario())

    def test_fail_together(self):
        """
        An engine that dies under a load leaves every place of it free.
        """

        async def scenario():
            table = Table(of_one("abc"), num_slots=3, room=3)
            table.is_dead = True
            with pytest.raises(Unavailable):
                await table.take("ab")
            table.is_dead = False
            await asyncio.sleep(0)
            seated = table.slots.num_seated
            return seated, await table.take("abc")

        assert (0, True) == asyncio.run(scenario())
