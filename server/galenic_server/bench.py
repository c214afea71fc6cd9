"""
How fast this machine answers: ``make bench``, or ``python -m galenic_server.bench --help``.

One engine in one process; all arms in one run, interleaved round by round, so that a noisy machine
is noisy for each of them; medians over the rounds. Every request reads random tokens and writes the
same number of tokens. The arms:

    bare               the backbone alone: the limit
    text prefix        P text tokens before the text, another prefix every request (cold)
    adapters           another adapter every request, its prompt not yet in the prefix cache (cold)
    adapters, warm     the same adapters again, with other texts
    text prefix, warm  the same prefixes again, with other texts
"""

import argparse
import asyncio
import json
import random
import secrets
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from galenic_adapters.backbone import ensure
from galenic_adapters.factor import Factor
from galenic_adapters.manifest import BackboneId
from galenic_adapters.zoo import metaprompt_of
from galenic_server.engine.base import Engine, EngineConfig, Request, Sampling
from galenic_server.engine.make import make_engine

TENANT = "bench"


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a run: num_requests a round and arm; lengths in tokens; rank of the random factors."""

    num_requests: int = 128
    num_rounds: int = 5
    num_adapters: int = 1000
    concurrency: int = 64
    text_tokens: int = 110
    answer_tokens: int = 32
    rank: int = 1
    seed: int = 0


@dataclass(slots=True)
class Arm:
    """One way to ask, and what each round measured: requests a second, first-token seconds."""

    name: str
    rates: list[float] = field(default_factory=list)
    first_seconds: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one request brings: text token ids, and perhaps an adapter."""

    text_ids: list[int]
    adapter: str | None = None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, value in asdict(Shape()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--engine", default="vllm", choices=["vllm", "transformers"])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = vars(parser.parse_args())
    kind, out = given.pop("engine"), given.pop("json")
    shape = Shape(**given)
    report = asyncio.run(run(shape, kind))
    if out:
        out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    _print_table(report)


async def run(shape: Shape, kind: str) -> dict[str, object]:
    """Every arm, and the engine's own account of it."""
    found = ensure()
    metaprompt = metaprompt_of(BackboneId(name=found.name, revision=found.revision))
    factors = _factors(shape, metaprompt.num_positions, metaprompt.width)
    config = EngineConfig(
        backbone=str(found.path),
        metaprompt=metaprompt,
        secret=secrets.token_bytes(32),
        num_slots=shape.num_adapters,
        max_rank=shape.rank,
        num_components=shape.num_adapters * shape.rank,
        context_tokens=1024,
    )
    engine = make_engine(kind, config, factors.__getitem__)
    await engine.start()
    try:
        began = time.perf_counter()
        await engine.seat(list(factors))
        seat_seconds = time.perf_counter() - began
        arms = await _measure(engine, shape, list(factors), metaprompt.num_positions)
        stats = asdict(await engine.stats())
    finally:
        await engine.stop()
    return {
        "shape": asdict(shape),
        "arms": [asdict(arm) | {"rate": arm.rate} for arm in arms],
        "seat_seconds": seat_seconds,
        "engine": stats,
    }


def _factors(shape: Shape, num_positions: int, width: int) -> dict[str, Factor]:
    rng = torch.Generator().manual_seed(shape.seed)
    return {
        f"bench-{i}": Factor(
            1 + 0.1 * torch.randn(num_positions, shape.rank, generator=rng),
            (1 + 0.1 * torch.randn(shape.rank, width, generator=rng)) / shape.rank,
        )
        for i in range(shape.num_adapters)
    }


async def _measure(
    engine: Engine, shape: Shape, adapters: Sequence[str], num_positions: int
) -> list[Arm]:
    rng = random.Random(shape.seed)
    vocab = range(1000, engine.tokenizer.vocab_size)
    arms = {name: Arm(name) for name in ARMS}
    fresh = _in_turn(adapters)
    for number in range(-1, shape.num_rounds):  # the first round warms up and does not count
        chosen = [next(fresh) for _ in range(shape.num_requests)]
        prefixes = [rng.choices(vocab, k=num_positions) for _ in chosen]

        def texts() -> list[list[int]]:
            return [rng.choices(vocab, k=shape.text_tokens) for _ in range(shape.num_requests)]

        asked = {
            "bare": [Prompt(text) for text in texts()],
            "text prefix": [Prompt(p + t) for p, t in zip(prefixes, texts(), strict=True)],
            "adapters": [Prompt(t, a) for a, t in zip(chosen, texts(), strict=True)],
            "adapters, warm": [Prompt(t, a) for a, t in zip(chosen, texts(), strict=True)],
            "text prefix, warm": [Prompt(p + t) for p, t in zip(prefixes, texts(), strict=True)],
        }
        for name, prompts in asked.items():
            # An adapter comes round again after num_adapters requests: another tenant, so that its
            # prompt is cold again.
            seconds, firsts = await _round(engine, shape, prompts, tenant=f"{TENANT}-{number}")
            if number >= 0:
                arms[name].rates.append(len(prompts) / seconds)
                arms[name].first_seconds.append(statistics.median(firsts))
    return list(arms.values())


ARMS = ("bare", "text prefix", "adapters", "adapters, warm", "text prefix, warm")


def _in_turn(adapters: Sequence[str]) -> Iterator[str]:
    while True:
        yield from adapters


async def _round(
    engine: Engine, shape: Shape, prompts: Sequence[Prompt], *, tenant: str
) -> tuple[float, list[float]]:
    """Seconds for all *prompts* at the shape's concurrency, and for each to its first token."""
    turns = asyncio.Semaphore(shape.concurrency)
    sampling = Sampling(max_tokens=shape.answer_tokens, ignore_end=True)

    async def ask(prompt: Prompt) -> float:
        async with turns:
            began = time.perf_counter()
            first = None
            request = Request(
                secrets.token_hex(8), tenant, prompt.text_ids, sampling, prompt.adapter
            )
            async for _ in engine.generate(request):
                first = first or time.perf_counter() - began
            assert first is not None
            return first

    began = time.perf_counter()
    firsts = await asyncio.gather(*map(ask, prompts))
    return time.perf_counter() - began, list(firsts)


def _print_table(report: dict[str, object]) -> None:
    arms = report["arms"]
    assert isinstance(arms, list)
    bare = arms[0]["rate"]
    lines = [
        "| arm | requests/s, median | min to max | of bare | first token, s |",
        "|---|---|---|---|---|",
    ]
    for arm in arms:
        rates = arm["rates"]
        first = statistics.median(arm["first_seconds"])
        lines.append(
            f"| {arm['name']} | {arm['rate']:.1f} | {min(rates):.1f} to {max(rates):.1f} "
            f"| {arm['rate'] / bare:.2f} | {first:.2f} |"
        )
    lines.append(json.dumps({"shape": report["shape"], "engine": report["engine"]}))
    print("\n".join(lines))  # noqa: T201  # a command's output


if __name__ == "__main__":  # vLLM's processes import this module again
    main()
