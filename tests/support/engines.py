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

from galenic_adapters.errors import NotFound
from galenic_adapters.factor import Factor, Metaprompt, digest_of
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
RANKS = (1, 4, 16)


class Adapters:
    """Random adapters by digest; what is not there is not found."""

    def __init__(self) -> None:
        self._random = torch.Generator().manual_seed(0)
        self._factors: dict[str, Factor] = {}

    def __call__(self, digest: str) -> Factor:
        if digest not in self._factors:
            raise NotFound("no such adapter")
        return self._factors[digest]

    def add(self, rank: int) -> str:
        factor = Factor(
            torch.randn(NUM_POSITIONS, rank, generator=self._random),
            torch.randn(rank, WIDTH, generator=self._random),
        )
        digest = digest_of({"u": factor.u_PR, "v": factor.v_RD})
        self._factors[digest] = factor
        return digest

    def remove(self, digest: str) -> None:
        del self._factors[digest]

    @cached_property
    def of_rank(self) -> dict[int, str]:
        """One that stays, for each rank that tests are made with."""
        return {rank: self.add(rank) for rank in RANKS}


def metaprompt() -> Metaprompt:
    made = torch.Generator().manual_seed(7)
    return Metaprompt(torch.randn(NUM_POSITIONS, WIDTH, generator=made) * 0.3)


class RunningEngine:
    """A started engine and its event loop, for tests that are not coroutines themselves."""

    def __init__(self, engine: Engine, adapters: Adapters, runner: asyncio.Runner) -> None:
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
    adapters = Adapters()
    small = {"dtype": "float32", "num_slots": 8, "enforce_eager": True}
    if kind == "vllm":
        small["options"] = {"kv_cache_memory_bytes": 32 << 20, "max_num_seqs": 32}
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
            yield RunningEngine(engine, adapters, runner)
        finally:
            runner.run(engine.stop())
            del engine
            gc.collect()  # here, where tests forgive vLLM the context of its sockets
