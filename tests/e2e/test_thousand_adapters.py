"""A thousand adapters on one backbone, each answering as if it were alone."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence

import httpx
import pytest

from galenic_client.types import ToPush
from tests.support.real_server import RealServer, Zoo, real_server

NUM_ADAPTERS = 1_000
NUM_ALONE = 100
CONCURRENCY = 64
PROMPT = "He has gout"  # shorter than a block, so that nothing is read from a cache
SAME = 3e-4  # log-probabilities in float32; adapters lie some tenths apart


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """float32, where an answer does not depend on what else is in its batch."""
    folder = tmp_path_factory.mktemp("thousand")
    with real_server(folder, dtype="float32", enforce_eager=True, context_tokens=512) as running:
        yield running


@pytest.mark.slow
class TestAThousandAdapters:
    def test_each_answers_in_a_crowd_as_it_does_alone(
        self, server: RealServer, zoo: Zoo, record_property: Callable[[str, object], None]
    ):
        """
        All are uploaded in one stream, and asked twice in random orders, 64 at a time: each gives
        the same answer in both crowds. A hundred are asked one by one, with nothing else running,
        and answer in the crowds as they do then. Compared are the log-probabilities of the first
        token, by which two adapters look alike in less than 1 % of all pairs.
        """
        began = time.perf_counter()
        states = _upload(server, zoo)
        uploaded = time.perf_counter()
        chance = random.Random(0)
        orders = [chance.sample(range(NUM_ADAPTERS), NUM_ADAPTERS) for _ in range(2)]
        first, second = (asyncio.run(_ask(server, order, CONCURRENCY)) for order in orders)
        ended = time.perf_counter()
        alone = asyncio.run(_ask(server, orders[0][:NUM_ALONE], 1))

        times = f"uploads {uploaded - began:.1f} s; two crowds {ended - uploaded:.1f} s"
        record_property("thousand adapters", times)
        assert {"new"} == states
        assert first == pytest.approx(second, abs=SAME)
        assert alone == pytest.approx({i: first[i] for i in alone}, abs=SAME)
        assert _share_of_lookalikes(list(first.values())) < 0.01
        residents = server.metric("galenic_resident_adapters")  # the zoo's are there from the start
        assert residents > NUM_ADAPTERS
        assert server.metric("galenic_slot_loads_total") == residents
        assert server.metric("galenic_slot_evictions_total") == 0


def _upload(server: RealServer, zoo: Zoo) -> set[str]:
    """Upload all adapters, and return the states that they are in."""
    packages = (
        ToPush(f"adapter-{i}", zoo.random_package(i).data, version=1) for i in range(NUM_ADAPTERS)
    )
    with server.admin() as admin:
        return {pushed.state for pushed in admin.push_many(packages, tenant="north")}


async def _ask(server: RealServer, order: Sequence[int], concurrency: int) -> dict[int, float]:
    """Return each adapter's answer, asked in this order."""
    turn = asyncio.Semaphore(concurrency)
    bearer = {"authorization": f"Bearer {server.api_key}"}
    async with httpx.AsyncClient(base_url=server.url, headers=bearer, timeout=300) as http:

        async def ask(i: int) -> float:
            body = {"model": f"adapter-{i}@1", "prompt": PROMPT, "max_tokens": 1, "logprobs": 0}
            async with turn:
                reply = await http.post("/v1/completions", json=body | {"temperature": 0})
            (choice,) = reply.raise_for_status().json()["choices"]
            return float(choice["logprobs"]["token_logprobs"][0])

        return dict(zip(order, await asyncio.gather(*map(ask, order)), strict=True))


def _share_of_lookalikes(answers: list[float]) -> float:
    pairs = list(itertools.combinations(answers, 2))
    return sum(abs(a - b) < SAME for a, b in pairs) / len(pairs)
