"""Whose request goes next: order and shares, on a clock that the test moves."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from galenic_adapters.errors import LimitReached
from galenic_server.admission.turns import ALONE_AFTER_SECONDS, Turns


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Hall:
    """Turns, and tasks that take them and let go when the test says so."""

    def __init__(self, most: int = 1, shared: int = 1, **but: Any) -> None:
        self.clock = Clock()
        self.turns = Turns(most=most, shared=shared, clock=self.clock, **but)
        self.came: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._inside: list[asyncio.Event] = []

    async def ask(
        self, tenant: str, num_tokens: float = 100, used: float | None = None, num_places: int = 1
    ) -> None:
        """One more request, which runs once it is admitted, until it is let go."""
        let_go = asyncio.Event()

        async def run() -> None:
            async with self.turns.take(tenant, num_tokens, num_places=num_places) as turn:
                self.came.append(tenant)
                self._inside.append(let_go)
                await let_go.wait()
                turn.num_tokens = num_tokens if used is None else used

        self.tasks.append(asyncio.create_task(run()))
        await _settle()

    async def let_go(self, count: int = 1) -> None:
        """The *count* longest inside end, one after the other."""
        for _ in range(count):
            self._inside.pop(0).set()
            await _settle()

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(story: Callable[..., Coroutine[Any, Any, None]], **how: Any) -> None:
    async def told() -> None:
        hall = Hall(**how)
        try:
            await story(hall)
        finally:
            await hall.close()

    asyncio.run(told())


class TestAFlood:
    def test_lets_another_go_next(self):
        """
        B comes when A has 200 in line, and is admitted as soon as one place is free.
        """

        async def story(hall: Hall) -> None:
            for _ in range(200):
                await hall.ask("A")
            await hall.ask("B")
            await hall.let_go(2)

            assert ["A", "B", "A"] == hall.came

        run(story)

    def test_leaves_half_to_another_that_floods_too(self):
        """
        Each gets fifty of the next hundred places, whoever came first.
        """

        async def story(hall: Hall) -> None:
            for _ in range(150):
                await hall.ask("A")
            for _ in range(150):
                await hall.ask("B")
            hall.came.clear()
            await hall.let_go(100)

            assert {"A": 50, "B": 50} == Counter(hall.came)

        run(story)

    def test_is_counted_in_answers(self):
        """
        A request of sixteen answers takes sixteen places: another of its tenant waits, and one of
        somebody else's does not.
        """

        async def story(hall: Hall) -> None:
            await hall.ask("B")
            await hall.ask("A", num_places=16)
            await hall.ask("A", num_places=16)
            await hall.ask("B")
            assert (["B", "A"], 17) == (hall.came, hall.turns.num_running)
            await hall.ask("C")
            await hall.let_go(2)
            assert ["B", "A", "C"] == hall.came[:3]
            assert 4 == len(hall.came) or 5 == len(hall.came)
            await hall.let_go(3)
            assert 0 == hall.turns.num_running

        run(story, most=64, shared=4)

    def test_is_measured_in_tokens(self):
        """
        Requests ten times as long come a tenth as often.
        """

        async def story(hall: Hall) -> None:
            for _ in range(60):
                await hall.ask("long", 1000)
            for _ in range(60):
                await hall.ask("short", 100)
            hall.came.clear()
            await hall.let_go(55)

            assert {"long": 5, "short": 50} == Counter(hall.came)

        run(story)

    def test_shares_by_weight(self):
        """
        A tenant of weight 3 gets three times as much.
        """

        async def story(hall: Hall) -> None:
            for tenant in ("heavy", "light"):
                for _ in range(100):
                    await hall.ask(tenant)
            hall.came.clear()
            await hall.let_go(80)

            assert {"heavy": 60, "light": 20} == Counter(hall.came)

        run(story, weight_of=lambda tenant: {"heavy": 3.0, "light": 1.0}[tenant])

    def test_is_charged_what_it_used(self):
        """
        Who asks for room for 1,000 tokens and uses 100 goes as often as who asks for 100.
        """

        async def story(hall: Hall) -> None:
            for _ in range(60):
                await hall.ask("careful", 1000, used=100)
                await hall.ask("exact", 100)
            hall.came.clear()
            await hall.let_go(60)

            assert abs(Counter(hall.came)["careful"] - 30) <= 1

        run(story)

    def test_before_is_no_debt_and_idleness_no_credit(self):
        """
        A had the engine for itself; when B comes, both start level.
        """

        async def story(hall: Hall) -> None:
            for _ in range(50):
                await hall.ask("A")
            await hall.let_go(40)
            for _ in range(40):
                await hall.ask("A")
                await hall.ask("B")
            hall.came.clear()
            await hall.let_go(40)

            assert abs(Counter(hall.came)["B"] - 20) <= 1

        run(story)


class TestTheEngine:
    def test_is_never_left_idle(self):
        """
        Work-conserving: while anyone waits, as many run as may.
        """

        async def story(hall: Hall) -> None:
            for i in range(40):
                await hall.ask("ABC"[i % 3])
            for _ in range(36):
                assert 4 == hall.turns.num_running
                await hall.let_go()
            await hall.let_go(4)

            assert (0, 0) == (hall.turns.num_running, hall.turns.num_waiting)

        run(story, most=4, shared=4)

    def test_is_one_tenants_alone_while_no_other_is_about(self):
        """
        Eight places for one; two while another was seen in the last seconds; then eight again.
        """

        async def story(hall: Hall) -> None:
            for _ in range(40):
                await hall.ask("A")
            assert 8 == hall.turns.num_running
            await hall.ask("B")
            assert ["A"] * 8 == hall.came
            await hall.let_go()
            assert "B" == hall.came[-1]
            await hall.let_go(10)
            assert 2 == hall.turns.num_running
            hall.clock.now += ALONE_AFTER_SECONDS + 1
            await hall.let_go()
            assert 8 == hall.turns.num_running

        run(story, most=8, shared=2)

    def test_takes_a_newcomer_beyond_what_is_shared(self):
        """
        Each tenant with nothing in the engine gets a place there, up to the most.
        """

        async def story(hall: Hall) -> None:
            for tenant in "AABBCCDDEE":
                await hall.ask(tenant)

            assert ["A", "A", "B", "C"] == sorted(hall.came)

        run(story, most=4, shared=2)


class TestOneWhoLeaves:
    def test_in_line_is_passed_over(self):
        """
        It costs nobody a turn.
        """

        async def story(hall: Hall) -> None:
            for tenant in "ABBA":
                await hall.ask(tenant)
            hall.tasks[1].cancel()
            await _settle()
            await hall.let_go(3)

            assert ["A", "B", "A"] == hall.came
            assert (0, 0) == (hall.turns.num_running, hall.turns.num_waiting)

        run(story)

    def test_just_as_its_turn_comes_gives_it_on(self):
        """
        The place is not lost.
        """

        async def story(hall: Hall) -> None:
            for tenant in "ABC":
                await hall.ask(tenant)
            hall._inside.pop(0).set()
            while hall.turns.num_waiting > 1:  # noqa: ASYNC110  the very moment is meant
                await asyncio.sleep(0)
            hall.tasks[1].cancel()
            await _settle()
            if hall._inside:
                await hall.let_go(len(hall._inside))

            assert "C" == hall.came[-1]
            assert 0 == hall.turns.num_running

        run(story)

    @pytest.mark.parametrize("seed", range(20))
    def test_at_random_leaves_nothing_behind(self, seed: int):
        """
        All are served and no line stays, in whatever order requests come, end and leave.
        """
        chance = random.Random(seed)

        async def story(hall: Hall) -> None:
            for _ in range(200):
                what = chance.random()
                if what < 0.5:
                    await hall.ask(chance.choice("ABCDE"), chance.randint(1, 1000), used=50)
                elif what < 0.8 and hall._inside:
                    await hall.let_go()
                elif hall.tasks:
                    leaver = chance.choice(hall.tasks)
                    leaver.cancel()
                    with suppress(asyncio.CancelledError):
                        await leaver
                hall._inside = [one for one in hall._inside if not one.is_set()]
                running, waiting = hall.turns.num_running, hall.turns.num_waiting
                assert running <= 3
                assert running >= 2 or not waiting
            for task in hall.tasks:
                task.cancel()
            await _settle()

            assert (0, 0) == (hall.turns.num_running, hall.turns.num_waiting)

        run(story, most=3, shared=2)


class TestALine:
    def test_has_an_end(self):
        """
        One tenant's flood cannot fill the memory: more is refused, with when to come again.
        """

        async def story(hall: Hall) -> None:
            for _ in range(4):
                await hall.ask("A")
            with pytest.raises(LimitReached, match="3 requests of this tenant wait") as refused:
                async with hall.turns.take("A", 1):
                    pass
            await hall.ask("B")

            assert refused.value.retry_after_seconds > 0
            assert 4 == hall.turns.num_waiting

        run(story, max_waiting=3)
