"""
Real engines over tiny backbones, each started once a run, and random adapters for them.
"""

import asyncio
import gc
import itertools
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoConfig

from galenic_adapters.backbone.weights import shape_of
from galenic_adapters.factor import Composed, Metaprompt, digest_of
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
NUM_POSITIONS_OF = {"rows": NUM_POSITIONS, "short": 24, "deep": 100}
"""Prompts that tests are made with, in blocks of 32 tokens: at the input, or of every layer."""


class Adapters:
    """Random adapters by digest; what is not there is not found."""

    def __init__(self, backbone: Path | str) -> None:
        self.shapes = shape_of(AutoConfig.from_pretrained(backbone)).scale_shapes()
        self._seeds = itertools.count(1000)
        self._known: dict[str, Composed] = {}

    def __call__(self, digests: Sequence[str]) -> dict[str, Composed]:
        return {digest: self._known[digest] for digest in digests if digest in self._known}

    def __getitem__(self, digest: str) -> Composed:
        return self._known[digest]

    def add(self, kind: str = "rows", *, seed: int | None = None, **scales: torch.Tensor) -> str:
        """A random prompt of a kind in `NUM_POSITIONS_OF`; the same one for the same seed."""
        made = torch.Generator().manual_seed(next(self._seeds) if seed is None else seed)
        num = NUM_POSITIONS_OF[kind]
        if kind != "deep":
            rows_PD = torch.randn(num, WIDTH, generator=made) * 0.3
            return self.put(Composed(rows_PD, scales=scales))
        num_layers, width = self.shapes["k"]
        keys, values = torch.randn(2, num_layers, num, width, generator=made) * 0.5
        return self.put(Composed(prefix=(keys, values), scales=scales))

    def add_scales(self, *places: str, seed: int) -> str:
        """One that scales these places by a half more or less; the same one for the same seed."""
        return self.put(Composed(scales=self.random_scales(*places, seed=seed)))

    def random_scales(self, *places: str, seed: int) -> dict[str, torch.Tensor]:
        made = torch.Generator().manual_seed(seed)
        return {
            place: 1 + 0.5 * torch.randn(self.shapes[place], generator=made) for place in places
        }

    def put(self, adapter: Composed) -> str:
        digest = digest_of(
            adapter.prompt | {f"scale {at}": it for at, it in adapter.scales.items()}
        )
        self._known[digest] = adapter
        return digest

    @property
    def kinds(self) -> list[str | None]:
        """No adapter, and one of each kind that stays: every prompt, scales at some places."""
        return [None, *self.prompts.values(), *self.scales.values()]

    def remove(self, digest: str) -> None:
        del self._known[digest]

    @cached_property
    def scales(self) -> dict[str, str]:
        """Some that stay, by the places that they scale; one of them scales behind a prompt."""
        behind = self.random_scales("o", "f", seed=9)
        return {
            places: self.add_scales(*places, seed=i) for i, places in enumerate(("of", "o", "f"))
        } | {"of behind rows": self.add("rows", seed=3, **behind)}

    @cached_property
    def prompts(self) -> dict[str, str]:
        """One that stays, of each kind of prompt."""
        return {kind: self.add(kind, seed=i) for i, kind in enumerate(NUM_POSITIONS_OF)}


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
            sampling=Sampling(**{"max_tokens": 12, "with_logprobs": True} | sampling),
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
