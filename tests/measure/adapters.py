"""
What adapters cost vLLM: ``python -m tests.measure.adapters --kind rows``.

Arms take turns in one engine over the default backbone, every request with another adapter: all
resident and their prompts in the prefix cache; resident, asked by a tenant whose cache is empty;
and asked for the first time. Each arm stands between two of bare requests, and is told as a ratio
to them: requests a CPU second of the engine's processes, which a busy machine changes little.
"""

import argparse
import asyncio
import random
import secrets
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import torch
from transformers import AutoConfig

from galenic_adapters.backbone.weights import ensure, shape_of
from galenic_adapters.factor import Composed
from galenic_server.engine.contract import EngineConfig, OpenGate, Request, Sampling, complete
from galenic_server.engine.vllm.engine import VllmEngine

NUM_TEXT, NUM_ANSWER = 110, 32
FIRST_ID = 1  # as chats begin, all with one id
NUM_REQUESTS, NUM_AT_ONCE = 128, 64


KINDS = ("scales", "rows", "deep", "text")
"""Scales at ``--places``; a prompt at the input; one of every layer; and as many tokens of text."""


class Adapters:
    """Random ones by digest, as many as are asked for."""

    def __init__(self, config: Any, kind: str, places: Sequence[str], num_positions: int) -> None:
        self._kind = kind
        self._shapes = shape_of(config).scale_shapes(places)
        self._prefix = shape_of(config).scale_shapes()["k"]
        self._rows = num_positions, config.hidden_size
        self._made = torch.Generator().manual_seed(0)
        self._kept: dict[str, Composed] = {}

    def __call__(self, digests: Sequence[str]) -> Mapping[str, Composed]:
        return {digest: self._kept[digest] for digest in digests}

    def add(self) -> str:
        digest = f"sha256:{self._made.initial_seed()}{len(self._kept):060x}"
        self._kept[digest] = self._one()
        return digest

    def _one(self) -> Composed:
        if self._kind == "rows":
            return Composed(0.1 * torch.randn(self._rows, generator=self._made))
        if self._kind == "deep":
            num_layers, width = self._prefix
            shape = 2, num_layers, self._rows[0], width
            keys, values = 0.1 * torch.randn(shape, generator=self._made)
            return Composed(prefix=(keys, values))
        shapes = self._shapes.items()
        return Composed(
            scales={at: 1 + 0.2 * torch.randn(it, generator=self._made) for at, it in shapes}
        )


@dataclass(frozen=True)
class Asked:
    """A request: by which adapter, for whom, and how many tokens stand before its text."""

    adapter: str | None = None
    tenant: str = "north"
    num_before: int = 0


class Arms:
    def __init__(self, engine: VllmEngine, adapters: Adapters) -> None:
        self._engine = engine
        self._adapters = adapters
        self._random = random.Random(0)
        self._resident = [adapters.add() for _ in range(NUM_REQUESTS)]

    def bare(self) -> list[Asked]:
        return [Asked()] * NUM_REQUESTS

    def warm(self) -> list[Asked]:
        return [Asked(digest) for digest in self._resident]

    async def heat(self) -> None:
        """Leave every resident's prompt in the cache of its tenant."""
        await self._ask_all(self.warm(), num_text=1, num_answer=1)

    def cold(self) -> list[Asked]:
        return [Asked(digest, secrets.token_hex(4)) for digest in self._resident]

    def first(self) -> list[Asked]:
        return [Asked(self._adapters.add()) for _ in range(NUM_REQUESTS)]

    def text(self, num_tokens: int) -> list[Asked]:
        return [Asked(num_before=num_tokens)] * NUM_REQUESTS

    async def rate(self, asked: Sequence[Asked]) -> float:
        """Requests a CPU second."""
        before = _cpu_seconds()
        await self._ask_all(asked, NUM_TEXT, NUM_ANSWER)
        return len(asked) / (_cpu_seconds() - before)

    async def _ask_all(self, asked: Sequence[Asked], num_text: int, num_answer: int) -> None:
        turns = asyncio.Semaphore(NUM_AT_ONCE)

        async def ask(one: Asked) -> None:
            async with turns:
                num_ids = one.num_before + num_text
                ids = [FIRST_ID, *(self._random.randrange(1000, 40000) for _ in range(num_ids - 1))]
                sampling = Sampling(num_answer, ignore_end=True)
                request = Request(secrets.token_hex(8), one.tenant, ids, sampling, one.adapter)
                await complete(self._engine, request)

        await asyncio.gather(*map(ask, asked))


def _cpu_seconds() -> float:
    """Of the engine's processes, not of this one."""
    times = [it.cpu_times() for it in psutil.Process().children(recursive=True)]
    return sum(it.user + it.system for it in times)


async def measure(
    arms: Arms, num_rounds: int, others: Mapping[str, Callable[[], list[Asked]]]
) -> None:
    ratios: dict[str, list[float]] = {name: [] for name in others}
    for asked_for in (arms.bare, *others.values()):
        await arms.rate(asked_for())
    last = await arms.rate(arms.bare())
    for _ in range(num_rounds):
        for name, asked_for in others.items():
            if asked_for == arms.warm:
                await arms.heat()
            rate, before = await arms.rate(asked_for()), last
            last = await arms.rate(arms.bare())
            ratios[name].append(2 * rate / (before + last))
            tell(f"bare {before:.2f} and {last:.2f} requests a CPU second, {name} {rate:.2f}")
    for name, of_rounds in ratios.items():
        told = " ".join(f"{ratio:.3f}" for ratio in of_rounds)
        tell(f"{name}: {statistics.median(of_rounds):.3f} of bare (rounds {told})")


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def run(asked: argparse.Namespace) -> None:
    backbone = str(ensure(None).path)
    configuration = AutoConfig.from_pretrained(backbone)
    places = tuple(asked.places.split()) if asked.kind == "scales" else ()
    adapters = Adapters(configuration, asked.kind, places, asked.positions)
    config = EngineConfig(
        backbone,
        secret=b"measured",
        num_slots=2048,
        context_tokens=512,
        places=places,
        options={"max_num_seqs": NUM_AT_ONCE},
    )
    engine = VllmEngine(config, adapters, OpenGate())
    await engine.start()
    try:
        arms = Arms(engine, adapters)
        others = {"warm": arms.warm, "cold": arms.cold, "first": arms.first}
        if asked.kind == "text":
            others = {"text": partial(arms.text, asked.positions)}
        await measure(arms, asked.rounds, others)
    finally:
        await engine.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, default="scales")
    parser.add_argument("--places", default="o f")
    parser.add_argument("--positions", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
