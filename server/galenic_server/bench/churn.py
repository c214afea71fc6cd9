"""
Uploads and deletes while others ask: adapters taken in and thrown out of the engine, so many a
second.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from statistics import median

from galenic_server.bench.asking import Round, ask_all, of_engine
from galenic_server.bench.stage import Arm, Stage, adapter, mixed, take_turns
from galenic_server.bench.workload import Prompt, arrivals
from galenic_server.engine.base import Engine

LOAD = 0.7
"""Of what bare reaches: at saturation a first token waits for its turn and nothing else."""


async def measure(stage: Stage, engine: Engine) -> None:
    rate = LOAD * await _saturation(stage, engine)
    size = min(1000, max(stage.preset.sizes))
    fresh = count(2 * 10**7)

    def prompts_of(number: int) -> list[Prompt]:
        rng = stage.rng(number, 7)
        prompts = stage.draw(rng, stage.preset.num_requests)
        starts = arrivals(rate, 1, len(prompts), rng)
        pairs = zip(mixed(prompts, size, rng), starts, strict=True)
        return [replace(it, start=at) for it, at in pairs]

    speak = of_engine(engine)
    for number in range(-1, stage.preset.num_rounds):
        order = ("no churn", "churn") if number % 2 else ("churn", "no churn")
        for name in order:
            made = Round("churn", name, number)
            async with _churning(stage, engine, fresh, is_on=name == "churn"):
                await ask_all(speak, prompts_of(number), stage.preset.concurrency, made)
            if number >= 0:
                stage.rounds.append(made)


async def _saturation(stage: Stage, engine: Engine) -> float:
    def prompts_of(number: int) -> list[Prompt]:
        return stage.draw(stage.rng(number, 8), stage.preset.num_requests)

    await take_turns(stage, "churn", [Arm("bare", of_engine(engine), prompts_of)], 2)
    of_bare = [it for it in stage.rounds if (it.part, it.arm) == ("churn", "bare")]
    return median(it.measures["requests/s"] for it in of_bare)


@asynccontextmanager
async def _churning(
    stage: Stage, engine: Engine, fresh: "count[int]", *, is_on: bool
) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_churn(stage, engine, fresh)) if is_on else None
        yield
        if task:
            task.cancel()


async def _churn(stage: Stage, engine: Engine, fresh: "count[int]") -> None:
    """In, one after the other at the preset's rate, and out again a second later."""
    inside: list[str] = []
    began = time.perf_counter()
    for number, name in enumerate(map(adapter, fresh)):
        await asyncio.sleep(began + number / stage.preset.churn - time.perf_counter())
        since = time.perf_counter()
        await engine.seat([name])
        stage.samples.setdefault("seat under churn, ms", []).append(
            1000 * (time.perf_counter() - since)
        )
        inside.append(name)
        if len(inside) > stage.preset.churn:
            await engine.evict(inside.pop(0))
