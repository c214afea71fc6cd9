"""
Real engines over tiny backbones, each started once a run, and random adapters for them.
"""

import asyncio
import gc
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoConfig

from galenic_adapters.backbone.scaling import shapes
from galenic_adapters.errors import NotFound
from galenic_adapters.factor import Composed, Factor, Metaprompt, digest_of
from galenic_adapters.tasks.base import Completion
from galenic_server.engine.contract import (
    Engine,
    EngineConfig,
    Request,
    Sampling,
    complete,
)
from galenic_server.engine.make import make_engine
from tests.support.tiny_models import NUM_POSITIONS, WIDTH

T = TypeVar("T")

CONTEXT_TOKENS = 512
SMALL = {"kv_cache_memory_bytes": 32 << 20, "max_num_seqs": 32}  # for vLLM
RANKS = (1, 4, 16)


class Adapters:
    """Random adapters by digest; what is not there is not found."""

    def __init__(self, backbone: Path | str) -> None:
        self.shapes = shapes(AutoConfig.from_pretrained(backbone))
        self._random = torch.Generator().manual_seed(0)
        self._factors: dict[str, Factor | Composed] = {}

    def __call__(self, digest: str) -> Factor | Composed:
        if digest not in self._factors:
            raise NotFound("no such adapter")
        return self._factors[digest]

    def add(self, rank: int) -> str:
        factor = Factor(
            torch.randn(NUM_POSITIONS, rank, generator=self._random),
            torch.randn(rank, WIDTH, generator=self._random),
        )
        return self.put(factor, {"u": factor.u_PR, "v": factor.v_RD})

    def add_scales(self, *places: str, seed: int) -> str:
        """One that scales these places by a half more or less; the same one for the same seed."""
        made = torch.Generator().manual_seed(seed)
        scales = {
            place: 1 + 0.5 * torch.randn(self.shapes[place], generator=made) for place in places
        }
        return self.put(Composed(scales=scales), scales)

    def put(self, adapter: Factor | Composed, tensors: dict[str, torch.Tensor]) -> str:
        digest = digest_of(tensors)
        self._factors[digest] = adapter
        return digest

    @property
    def kinds(self) -> list[str | None]:
        """No adapter, and one of each kind that stays: of every rank, of scales at some places."""
        return [None, *self.of_rank.values(), *self.scales.values()]

    def remove(self, digest: str) -> None:
        del self._factors[digest]

    @cached_property
    def scales(self) -> dict[str, str]:
        """Some that stay, by the places that they scale."""
        return {
            places: self.add_scales(*places, seed=i) for i, places in enumerate(("of", "o", "f"))
        }

    @cached_property
    def of_rank(self) -> dict[int, str]:
        """One that stays, for each rank that tests are made with."""
        return {rank: self.add(rank) for rank in RANKS}


def metaprompt() -> Metaprompt:
    made = torch.Generator().manual_seed(7)
    return Metaprompt(torch.randn(NUM_POSITIONS, WIDTH, generator=made) * 0.3)


class RunningEngine:
    """A started engine and its event loop, for tests that are not coroutines themselves."""

    def __init__(
        self, kind: str, engine: Engine, adapters: Adapters, runner: asyncio.Runner
    ) -> None:
        self.kind = kind
        self.engine = engine
        self.adapters = adapters
        self._runner = runner
        self._num_requests = 0

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    def request(self, text: str = "Denies chest pain.", **but: Any) -> Request:
        """A request for *text*; *but* goes to `Sampling` and `Request`, by name."""
        self._num_requests += 1
        sampling = {k: but.pop(k) for k in list(but) if k in Sampling.__dataclass_fields__}
        made = Request(
            id=f"test-{self._num_requests}",
            tenant="north",
            text_ids=self.engine.tokenizer.encode(text),
            sampling=Sampling(**{"max_tokens": 12, "with_logprob": True} | sampling),
        )
        return replace(made, **but)

    def ask(self, text: str = "Denies chest pain.", **but: Any) -> Completion:
        return self.run(complete(self.engine, self.request(text, **but)))

    def ask_all(self, *requests: Request) -> list[Completion]:
        """The answers to requests sent at once."""

        async def gather() -> list[Completion]:
            return await asyncio.gather(*(complete(self.engine, it) for it in requests))

        return self.run(gather())


@contextmanager
def running(kind: str, backbone: Path | str, **config: Any) -> Iterator[RunningEngine]:
    """An engine over *backbone* in float32, uncompiled and small unless *config* says otherwise."""
    adapters = Adapters(backbone)
    small = {"dtype": "float32", "num_slots": 8, "enforce_eager": True}
    if kind == "vllm":
        config["options"] = SMALL | config.get("options", {})
    made = EngineConfig(
        str(backbone),
        metaprompt(),
        secret=b"the secret of the tests",
        context_tokens=CONTEXT_TOKENS,
        **small | config,
    )
    with asyncio.Runner() as runner:
        engine = make_engine(kind, made, adapters)
        runner.run(engine.start())
        try:
            yield RunningEngine(kind, engine, adapters, runner)
        finally:
            runner.run(engine.stop())
            del engine
            gc.collect()  # here, where tests forgive vLLM the context of its sockets
