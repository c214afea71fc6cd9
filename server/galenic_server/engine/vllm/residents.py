"""
Keeps adapters resident in vLLM's workers: fetches, seats and evicts them, and refills a fresh core.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

import torch

from galenic_adapters.errors import NotFound
from galenic_adapters.factor import Composed
from galenic_server.engine.checks import Capacity
from galenic_server.engine.contract import AdaptersOf
from galenic_server.engine.slots import Placement, Seated, Slots
from galenic_server.engine.vllm.loader import CallWorkers, Loader

FETCHED_AT_ONCE = 100  # adapters on their way from the store, in this process
MOST_PASSES = 4  # of the backbone through prompts that nobody has asked for yet, at a time


class WorkerResidents:
    """Assigns adapters to slots, and loads them into the workers, which *call* reaches."""

    def __init__(
        self,
        num_slots: int,
        capacity: Capacity,
        dtype: torch.dtype,
        *,
        adapters_of: AdaptersOf,
        call: CallWorkers,
    ) -> None:
        self._capacity = capacity
        self._adapters_of = adapters_of
        self._call = call
        self.loader = Loader(call, capacity.scales, dtype, shelf=lambda: self.slots.prompts)
        self.slots = Slots(
            num_slots,
            capacity.prompt_bytes,
            fetch=self._fetch,
            load=self.loader.load,
            prompt_of=capacity.prompt_of,
        )

    def hold(self, digest: str) -> AbstractAsyncContextManager[Placement]:
        """Hold the slot of *digest* for the block, loading the adapter if needed."""
        return self.slots.hold(digest)

    def find(self, digest: str) -> Placement | None:
        """Return the slot of *digest*, if it is assigned already."""
        return self.slots.find(digest)

    async def seat(self, digests: Sequence[str], *, may_evict: bool = True) -> bool:
        """Make adapters resident, as `Engine.seat` does."""
        new = [digest for digest in digests if digest not in self.slots]
        for some in _parts(new):
            found = await asyncio.to_thread(self._fetch_fitting, some)
            if not await self.slots.take(self._at_hand(found), may_evict=may_evict):
                return False
        return True

    def evict(self, digest: str) -> None:
        self.slots.evict(digest)

    async def refill(self) -> None:
        """Load the residents of the previous core that still exist into a fresh one."""
        async with self.loader.filling() as send:
            if not all(await self._call("prepare")):
                raise RuntimeError("this vLLM's model runner is not known, start without places")
            residents = self.slots.seated()
            for some in _parts(list(residents)):
                adapters = await asyncio.to_thread(self._fetch_fitting, some)
                for digest in set(some) - adapters.keys():
                    self.slots.evict(digest)
                await send(
                    [
                        Seated(digest, residents[digest], adapter)
                        for digest, adapter in adapters.items()
                    ]
                )

    def _at_hand(self, adapters: Mapping[str, Composed]) -> dict[str, Composed]:
        """
        Return the adapters whose prompts need no pass of the backbone, and a few of the others.

        Passes for thousands of prompts would delay live requests.
        """
        new = dict.fromkeys(
            adapter.prompt_digest
            for adapter in adapters.values()
            if adapter.rows_PD is not None and adapter.prompt_digest not in self.slots.prompts
        )
        late = set(list(new)[MOST_PASSES:])
        return {
            digest: adapter
            for digest, adapter in adapters.items()
            if adapter.prompt_digest not in late
        }

    async def _fetch(self, digest: str) -> Composed:
        return await asyncio.to_thread(self._fetch_one, digest)

    def _fetch_one(self, digest: str) -> Composed:
        found = self._adapters_of([digest])
        if digest not in found:
            raise NotFound(f"no adapter of digest {digest}")
        self._capacity.check(found[digest])
        return found[digest]

    def _fetch_fitting(self, digests: Sequence[str]) -> dict[str, Composed]:
        return self._capacity.fitting(self._adapters_of(digests))


def _parts(digests: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(digests), FETCHED_AT_ONCE):
        yield digests[first : first + FETCHED_AT_ONCE]
