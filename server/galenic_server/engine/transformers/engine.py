"""
The engine on plain transformers: one request's token at a time, the composed rows as
``inputs_embeds``.

It is the reference that the other engine is measured against, and serves where vLLM does not run.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from galenic_adapters.errors import NotFound, Unavailable
from galenic_adapters.factor import Factor, scale
from galenic_server.engine.checks import check_factor, fit, fitting
from galenic_server.engine.contract import (
    WARM_UP,
    Delta,
    EngineConfig,
    EngineStats,
    FactorsOf,
    Gate,
    Request,
    Work,
    complete,
)
from galenic_server.engine.transformers.decoding import Backbone, Decoding


class TransformersEngine:
    """An `Engine`; see there for what it promises. Its slots are prompts kept composed."""

    def __init__(self, config: EngineConfig, factors_of: FactorsOf, gate: Gate) -> None:
        self._config, self._border = fit(config)
        self._factors_of = factors_of
        self._gate = gate
        self._tokenizer = AutoTokenizer.from_pretrained(config.backbone)
        self._dtype: torch.dtype = getattr(torch, config.dtype)
        self._prompts: dict[str, Tensor] = {}  # the longest unused first
        self._turn = asyncio.Lock()
        self._backbone: Backbone | None = None
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
        self._backbone = await asyncio.to_thread(
            Backbone.load, self._config.backbone, self._dtype, self._tokenizer
        )
        await complete(self, WARM_UP)

    async def stop(self) -> None:
        self._backbone = None

    async def healthy(self) -> bool:
        return self._backbone is not None

    def check(self, request: Request, field: str = "text") -> None:
        self._border.check(request, field)

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        self.check(request)
        async with (
            self._gate.enter(Work.of(request)) as turn,
            aclosing(self._decode(request)) as deltas,
        ):
            async for delta in deltas:
                turn.said(delta.num_tokens)
                yield delta

    async def _decode(self, request: Request) -> AsyncGenerator[Delta]:
        backbone = self._backbone
        if backbone is None:
            raise Unavailable("the engine is starting")
        prompt_PD = await self._prompt(request.adapter) if request.adapter else None
        decoding = Decoding(backbone, request, prompt_PD)
        while decoding.finish is None:
            async with self._turn:
                delta = await asyncio.to_thread(decoding.step)
            yield delta

    async def seat(self, digests: Sequence[str]) -> None:
        new = [digest for digest in digests if digest not in self._prompts]
        await self.take(await asyncio.to_thread(self._factors_of, new))

    async def take(self, factors: Mapping[str, Factor], *, may_evict: bool = True) -> bool:
        for digest, factor in fitting(self._config, factors).items():
            if not may_evict and len(self._prompts) >= self._config.num_slots:
                return False
            if digest not in self._prompts:
                self._keep(digest, await asyncio.to_thread(self._compose, factor))
        return True

    async def warm(self, tenant: str, digest: str) -> None:
        """This engine caches no prefix."""

    async def evict(self, digest: str) -> None:
        self._prompts.pop(digest, None)

    async def stats(self) -> EngineStats:
        return EngineStats(
            resident_adapters=len(self._prompts),
            num_slots=self._config.num_slots,
            slot_loads=self._num_loads,
            slot_evictions=self._num_evictions,
        )

    async def _prompt(self, digest: str) -> Tensor:
        prompt_PD = self._prompts.pop(digest, None)
        if prompt_PD is None:
            prompt_PD = await asyncio.to_thread(self._fetch, digest)
            return self._keep(digest, prompt_PD)
        self._prompts[digest] = prompt_PD
        return prompt_PD

    def _keep(self, digest: str, prompt_PD: Tensor) -> Tensor:
        self._num_loads += 1
        self._prompts[digest] = prompt_PD
        if len(self._prompts) > self._config.num_slots:
            del self._prompts[next(iter(self._prompts))]
            self._num_evictions += 1
        return prompt_PD

    def _fetch(self, digest: str) -> Tensor:
        found = self._factors_of([digest])
        if digest not in found:
            raise NotFound(f"no adapter of digest {digest}")
        return self._compose(check_factor(self._config, found[digest]))

    def _compose(self, factor: Factor) -> Tensor:
        """Rounded as in vLLM's tables: the factor to the engine's dtype, then the product."""
        u_PR, v_RD = factor.u_PR.to(self._dtype), factor.v_RD.to(self._dtype)
        return scale(self._config.metaprompt.rows_PD, u_PR, v_RD).to(self._dtype)
