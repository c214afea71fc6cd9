"""More adapters than slots, changing while they are asked: nobody gets another's answer."""

import asyncio
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from galenic_adapters.package.file import Package
from galenic_client import AsyncClient
from galenic_client.errors import NotFound
from galenic_client.types import NliDocument
from galenic_server.engine.contract import EngineStats
from tests.support.real_server import SAME_ODDS, odds_of_yes
from tests.support.serving import ADMIN_KEY, Running, package

NUM_SLOTS = 8
NUM_ADAPTERS = 64
NUM_CALLERS = 16
NUM_CHANGES = 24
ANSWERS_A_CHANGE = 6
NOTES: list[NliDocument] = [
    {"premise": "He has gout.", "hypothesis": "He is ill."},
    {"premise": "Denies chest pain.", "hypothesis": "His heart is failing."},
]
Told = tuple[float, ...]


def adapter(seed: int, **but: str) -> Package:
    """An adapter that says yes or no, as distinct as its seed; *but* changes its manifest."""
    return package("nli", ("yes", "no"), seed=40_000 + seed, **but)


def stats(running: Running) -> EngineStats:
    return asyncio.run(running.parts.service.engine.stats())


@dataclass
class Ward:
    """Adapters whose versions come and go; *seeds* remembers what every version was."""

    seeds: dict[str, int] = field(default_factory=dict)
    newest: dict[str, str] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    answers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def publish(self, admin: AsyncClient, name: str) -> None:
        seed = next(self.numbers)
        made = await admin.push(name, adapter(seed).data, tenant="ward")
        ref = f"{made.name}@{made.version}"
        self.seeds[ref], self.newest[name] = seed, ref

    async def change(self, admin: AsyncClient, name: str) -> None:
        """A newer version, and the older one deleted."""
        older = self.newest[name]
        await self.publish(admin, name)
        await admin.delete(name, int(older.partition("@")[2]), tenant="ward")

    async def ask(self, client: AsyncClient, ref: str) -> Told:
        reply = await client.nli(NOTES, adapter=ref)
        assert ref == f"{reply.adapter.name}@{reply.adapter.version}"
        self.answers.release()
        return tuple(odds_of_yes(reply))

    async def answered(self, num_more: int) -> None:
        """Until so many more were answered."""
        for _ in range(num_more):
            await self.answers.acquire()


class TestEightSlots:
    def test_uploads_and_deletes_under_load_mix_nothing_up(self, vllm_running: Running):
        """
        64 adapters are asked by sixteen callers at once, while versions are replaced and deleted.
        Whoever is answered hears the version they named, as it answers alone (the odds of "yes"
        to two notes, which no two versions agree on); a deleted version is not found any more.
        """
        ward, url, key = Ward(), vllm_running.url, vllm_running.key("ward")
        before = stats(vllm_running)
        chance = random.Random(0)
        said: list[tuple[str, Told]] = []
        deleted: list[str] = []
        done = asyncio.Event()

        async def caller(client: AsyncClient) -> None:
            while not done.is_set():
                ref = ward.newest[f"adapter-{chance.randrange(NUM_ADAPTERS)}"]
                try:
                    said.append((ref, await ward.ask(client, ref)))
                except NotFound:
                    assert ref not in ward.newest.values()

        async def changer(admin: AsyncClient) -> None:
            for _ in range(NUM_CHANGES):
                name = f"adapter-{chance.randrange(NUM_ADAPTERS)}"
                deleted.append(ward.newest[name])
                await ward.change(admin, name)
                await ward.answered(ANSWERS_A_CHANGE)  # a change is much faster than an answer
            done.set()

        async def scenario() -> dict[str, Told]:
            async with (
                AsyncClient(url, api_key=ADMIN_KEY) as admin,
                AsyncClient(url, api_key=key) as client,
            ):
                for i in range(NUM_ADAPTERS):
                    await ward.publish(admin, f"adapter-{i}")
                await asyncio.gather(changer(admin), *(caller(client) for _ in range(NUM_CALLERS)))
                for ref in deleted:
                    with pytest.raises(NotFound):
                        await ward.ask(client, ref)
                # The same tensors again, under names of their own, nothing else running.
                return {ref: await self._alone(ward, admin, client, ref) for ref in dict(said)}

        alone = asyncio.run(scenario())

        assert len(said) >= NUM_CHANGES * ANSWERS_A_CHANGE > 2 * NUM_ADAPTERS
        assert not any(
            one == pytest.approx(other, abs=2 * SAME_ODDS)
            for one, other in itertools.combinations(alone.values(), 2)
        )
        for ref, told in said:
            assert alone[ref] == pytest.approx(told, abs=SAME_ODDS), ref
        after = stats(vllm_running)
        assert after.slot_evictions - before.slot_evictions > NUM_ADAPTERS
        assert after.resident_adapters <= NUM_SLOTS == after.num_slots

    async def _alone(self, ward: Ward, admin: AsyncClient, client: AsyncClient, ref: str) -> Told:
        seed = ward.seeds[ref]
        made = adapter(seed, name="alone")  # of another digest, so no cache knows it
        await admin.push(f"alone-{seed}", made.data, version=1, tenant="ward")
        return await ward.ask(client, f"alone-{seed}@1")
