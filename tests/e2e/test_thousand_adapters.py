"""A thousand adapters on one backbone, each answering as if it were alone."""

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator

import pytest

from galenic_client.types import NliDocument
from tests.support.real_server import (
    SAME_ODDS,
    RealServer,
    Zoo,
    odds_of_yes,
    real_server,
)

NUM_ADAPTERS = 1_000
CONCURRENCY = 64
NOTE: NliDocument = {"premise": "He has gout.", "hypothesis": "He is ill."}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """float32, where an answer does not depend on what else is in its batch."""
    folder = tmp_path_factory.mktemp("thousand")
    with real_server(folder, dtype="float32", enforce_eager=True, context_tokens=512) as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(2400)  # each adapter is uploaded and asked alone first
class TestAThousandAdapters:
    def test_each_answers_in_a_crowd_as_it_does_alone(
        self, server: RealServer, zoo: Zoo, record_property: Callable[[str, object], None]
    ):
        """
        Each is uploaded and asked at once, with nothing else running: that is its own answer. Then
        all are asked in random order, 64 at a time, and every answer is its adapter's own. Compared
        are the odds of "yes", by which two adapters look alike in less than 1 % of all pairs.
        """
        alone: list[float] = []
        seconds: list[float] = []
        with server.admin() as admin, server.client() as client:
            for i in range(NUM_ADAPTERS):
                data = zoo.random_package(i).data
                began = time.perf_counter()
                admin.push(f"adapter-{i}", data, version=1, tenant="north")
                alone += odds_of_yes(client.nli([NOTE], adapter=f"adapter-{i}@1"))
                seconds.append(time.perf_counter() - began)
        order = random.Random(0).sample(range(NUM_ADAPTERS), NUM_ADAPTERS)
        began = time.perf_counter()
        crowd = asyncio.run(_ask(server, order))
        minutes = (time.perf_counter() - began) / 60

        told = f"upload to first answer {statistics.median(seconds):.3f} s at the median"
        record_property("thousand adapters", f"{told}; crowd of {CONCURRENCY} {minutes:.2f} min")
        assert _share_of_lookalikes(alone) < 0.01
        assert [alone[i] for i in order] == pytest.approx(crowd, abs=SAME_ODDS)
        residents = server.metric("galenic_resident_adapters")  # the zoo's are there from the start
        assert residents > NUM_ADAPTERS
        assert server.metric("galenic_slot_loads_total") == residents
        assert server.metric("galenic_slot_evictions_total") == 0


async def _ask(server: RealServer, order: list[int]) -> list[float]:
    """The answers of the adapters in this order, asked so many at a time."""
    turn = asyncio.Semaphore(CONCURRENCY)
    async with server.async_client() as client:

        async def ask(i: int) -> float:
            async with turn:
                (answer,) = odds_of_yes(await client.nli([NOTE], adapter=f"adapter-{i}@1"))
                return answer

        return await asyncio.gather(*map(ask, order))


def _share_of_lookalikes(answers: list[float]) -> float:
    pairs = list(itertools.combinations(answers, 2))
    return sum(abs(a - b) < SAME_ODDS for a, b in pairs) / len(pairs)
