"""
Measures what adapters cost on one engine: none, a text prefix, or one of N, cold and warm.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from galenic_server.bench.asking import of_engine
from galenic_server.bench.figures import ours
from galenic_server.bench.stage import Arm, Stage, adapter, mixed, take_turns
from galenic_server.bench.workload import Prompt
from galenic_server.engine.checks import fit
from galenic_server.engine.contract import Engine, Request, Sampling, complete


async def seat(stage: Stage, engine: Engine) -> None:
    """Seat the adapters of the largest mix one by one, as many as have room."""
    began = time.perf_counter()
    for i in range(max(stage.preset.sizes)):
        if not await engine.seat([adapter(i)], may_evict=False):
            break
    seconds = time.perf_counter() - began
    num_seated = (await engine.stats()).resident_adapters
    stage.samples["seat one of many, ms"] = [1000 * seconds / num_seated]
    _, _, capacity = fit(engine.config)
    (made,) = stage.adapters_of([adapter(0)]).values()
    prompt = capacity.prompt_of(made)
    scales = sum(scale.numel() for scale in made.scales.values()) * capacity.number_bytes
    for size in stage.preset.sizes:
        num_bytes = scales + (prompt.num_bytes if prompt else 0)
        stage.samples[f"bytes of {size}"] = [float(size * num_bytes)]


async def measure(stage: Stage, engine: Engine) -> None:
    speak, count = of_engine(engine), stage.preset.num_requests

    def bare(number: int) -> list[Prompt]:
        return stage.draw(stage.rng(number, 0), count)

    def prefixed(number: int) -> list[Prompt]:
        rng = stage.rng(number, 1)
        prompts = stage.draw(rng, count)
        size = (count, stage.preset.num_positions)
        prefixes = rng.integers(*stage.vocabulary, size=size).tolist()
        pairs = zip(prompts, prefixes, strict=True)
        return [replace(prompt, text_ids=prefix + prompt.text_ids) for prompt, prefix in pairs]

    arms = [
        Arm("bare", speak, bare, engine=engine),
        Arm("text prefix, cold", speak, prefixed, engine=engine),
    ]
    for size in stage.preset.sizes:
        arms += _of_size(stage, engine, size)
    await take_turns(stage, "residency", arms)
    if stage.kind == "vllm":
        await _first_ever(stage, engine)


def _of_size(stage: Stage, engine: Engine, size: int) -> list[Arm]:
    speak = of_engine(engine)

    def cold(number: int) -> list[Prompt]:  # each request has a fresh tenant, so nothing is cached
        rng = stage.rng(number, 2, size)
        return mixed(stage.draw(rng, stage.preset.num_requests), size, rng)

    def warm(number: int) -> list[Prompt]:
        return [replace(prompt, tenant=f"warm-{number}") for prompt in cold(number)]

    return [
        Arm(ours(size, "cold"), speak, cold, engine=engine),
        Arm(ours(size, "warm"), speak, warm, lambda asked: heat(engine, asked), engine),
    ]


async def heat(engine: Engine, prompts: Sequence[Prompt]) -> None:
    """Warm up the prefix cache for each pair of tenant and adapter in *prompts*."""
    pairs = sorted({(prompt.tenant, prompt.adapter) for prompt in prompts})

    async def once(number: int, tenant: str, name: str | None) -> None:
        request = Request(f"heat-{number}", tenant, [10], Sampling(1, ignore_end=True), name)
        await complete(engine, request)

    await asyncio.gather(*(once(i, *pair) for i, pair in enumerate(pairs)))


async def _first_ever(stage: Stage, engine: Engine, count: int = 20) -> None:
    """Measure seconds to the first token for adapters that are not resident, one at a time."""
    seconds = stage.samples.setdefault("cold first request TTFT, s", [])
    for number in range(count):
        name = adapter(10**7 + number)
        prompt = replace(stage.draw(stage.rng(number, 3), 1)[0], adapter=name)
        began = time.perf_counter()
        async for _ in of_engine(engine)(prompt):
            seconds.append(time.perf_counter() - began)
            break
        await engine.evict(name)
