"""
Sends adapters to vLLM's workers in as few messages as they fit in.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import torch

from galenic_server.engine.slots import Seated, Shelf
from galenic_server.engine.vllm.worker import messages, pack_prompts, pack_scales, prompt_size

CallWorkers = Callable[..., Awaitable[Any]]
"""Calls a method of `AdapterWorker`, by name, on every worker."""
Send = Callable[[Sequence[Seated]], Awaitable[None]]


class Loader:
    """
    Loads adapters for one engine, over all its cores.

    shapes: of the scales that have tables.   shelf: the prompts of residents; workers forget all
    others with the next message.   kept: digests of the prompts that workers hold.
    """

    def __init__(
        self,
        call: CallWorkers,
        shapes: Mapping[str, tuple[int, int]],
        dtype: torch.dtype,
        shelf: Callable[[], Shelf],
    ) -> None:
        self._call = call
        self._shapes = shapes
        self._dtype = dtype
        self._shelf = shelf
        self.kept: set[str] = set()
        self._unsent: list[Seated] = []
        self._next: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()

    async def load(self, seated: Sequence[Seated]) -> None:
        """Load adapters into the workers; those that arrive meanwhile share the next message."""
        self._unsent += seated
        if self._next is None:
            self._next = asyncio.create_task(self._send_unsent())
        await self._next

    @asynccontextmanager
    async def filling(self) -> AsyncIterator[Send]:
        """Yield a function that fills a fresh core; other loads wait until the block ends."""
        async with self._sending:
            self.kept.clear()
            yield self._send

    async def _send_unsent(self) -> None:
        async with self._sending:
            self._next = None
            unsent, self._unsent = self._unsent, []
            await self._send(unsent)

    async def _send(self, seated: Sequence[Seated]) -> None:
        await self._send_prompts(seated)
        if not self._shapes:
            return
        numbers = sum(num_layers * width for num_layers, width in self._shapes.values())
        for some in messages(seated, lambda adapter: numbers * self._dtype.itemsize):
            packed = await asyncio.to_thread(pack_scales, some, self._shapes, self._dtype)
            await self._call("load_scales", packed)

    async def _send_prompts(self, seated: Sequence[Seated]) -> None:
        needed = {
            resident.place.prompt.digest: resident.adapter
            for resident in seated
            if resident.place.prompt
        }
        new = [digest for digest in needed if digest not in self.kept]
        for some in messages(new, lambda digest: prompt_size(needed[digest], self._dtype)):
            adapters = {digest: needed[digest] for digest in some}
            packed = await asyncio.to_thread(pack_prompts, adapters, self._dtype)
            gone = {digest for digest in self.kept if digest not in self._shelf()}
            await self._call("load_prompts", packed, list(gone))
            self.kept = self.kept - gone | packed.keys()
