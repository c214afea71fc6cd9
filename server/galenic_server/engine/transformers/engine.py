"""
The engine on plain transformers: decodes one token of one request at a time.

Prompts are put into the KV cache, and scales are hooks. It is the reference that the vLLM engine is
tested against, and serves where vLLM does not run.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import torch
from transformers import AutoTokenizer

from galenic_adapters.backbone.scaling import to_offset
from galenic_adapters.errors import NotFound, Unavailable
from galenic_adapters.factor import Composed
from galenic_server.engine.checks import fit
from galenic_server.engine.contract import (
    WARM_UP,
    AdaptersOf,
    Delta,
    EngineConfig,
    EngineStats,
    Gate,
    Request,
    Work,
    complete,
)
from galenic_server.engine.transformers.decoding import Decoding, LoadedModel, Tuning


class TransformersEngine:
    """
    Implements `Engine`; its slots are composed adapters that are kept in memory.

    Its parts may be wrapped between requests: *gate* admits them, *backbone* decodes.
    """

    def __init__(self, config: EngineConfig, adapters_of: AdaptersOf, gate: Gate) -> None:
        self._config, self._bounds, self._capacity = fit(config)
        self._num_slots: int = self._config.num_slots or 0
        self._adapters_of = adapters_of
        self.gate = gate
        self._tokenizer = AutoTokenizer.from_pretrained(config.backbone)
        self._dtype: torch.dtype = getattr(torch, config.dtype)
        self.residents: dict[str, Tuning] = {}  # the longest unused first
        self._turn = asyncio.Lock()
        self.backbone: LoadedModel | None = None
        self._num_loads = 0
        self._num_evictions = 0

    @property
    def config(self) -> EngineConfig:
        return self._config

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    @property
    def openai(self) -> None:
        return None

    async def start(self) -> None:
        self.backbone = await asyncio.to_thread(
            LoadedModel.load, self._config.backbone, self._dtype, self._tokenizer
        )
        await complete(self, WARM_UP)

    async def stop(self) -> None:
        self.backbone = None

    async def healthy(self) -> bool:
        return self.backbone is not None

    def check(self, request: Request) -> None:
        tuning = self.residents.get(request.adapter or "", Tuning())
        self._bounds.check(request, tuning.num_positions)

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        self.check(request)
        async with (
            self.gate.enter(Work.of(request)) as turn,
            aclosing(self._decode(request)) as deltas,
        ):
            async for delta in deltas:
                turn.count(delta.num_tokens)
                yield delta

    async def _decode(self, request: Request) -> AsyncGenerator[Delta]:
        backbone = self.backbone
        if backbone is None:
            raise Unavailable("the engine is starting")
        tuning = await self._tuning(request.adapter) if request.adapter else Tuning()
        self._bounds.check(request, tuning.num_positions)
        decoding = Decoding(backbone, request, tuning)
        while decoding.finish is None:
            async with self._turn:
                delta = await asyncio.to_thread(decoding.step)
            yield delta

    async def seat(self, digests: Sequence[str], *, may_evict: bool = True) -> bool:
        new = [digest for digest in digests if digest not in self.residents]
        found = self._capacity.fitting(await asyncio.to_thread(self._adapters_of, new))
        for digest, adapter in found.items():
            if not may_evict and len(self.residents) >= self._num_slots:
                return False
            self._keep(digest, await asyncio.to_thread(self._round, adapter))
        return True

    async def evict(self, digest: str) -> None:
        self.residents.pop(digest, None)

    async def stats(self) -> EngineStats:
        return EngineStats(
            resident_adapters=len(self.residents),
            num_slots=self._num_slots,
            slot_loads=self._num_loads,
            slot_evictions=self._num_evictions,
        )

    async def _tuning(self, digest: str) -> Tuning:
        tuning = self.residents.pop(digest, None)
        if tuning is None:
            return self._keep(digest, await asyncio.to_thread(self._fetch, digest))
        self.residents[digest] = tuning
        return tuning

    def _keep(self, digest: str, tuning: Tuning) -> Tuning:
        self._num_loads += 1
        self.residents[digest] = tuning
        if len(self.residents) > self._num_slots:
            del self.residents[next(iter(self.residents))]
            self._num_evictions += 1
        return tuning

    def _fetch(self, digest: str) -> Tuning:
        found = self._adapters_of([digest])
        if digest not in found:
            raise NotFound(f"no adapter of digest {digest}")
        self._capacity.check(found[digest])
        return self._round(found[digest])

    def _round(self, adapter: Composed) -> Tuning:
        """Convert an adapter to the engine's dtype, rounding as the vLLM engine does."""
        return Tuning(
            {name: tensor.to(self._dtype) for name, tensor in adapter.prompt.items()},
            {place: to_offset(scale, self._dtype) for place, scale in adapter.scales.items()},
        )
