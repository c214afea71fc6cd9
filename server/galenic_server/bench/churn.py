"""
Measures how adapter churn affects other requests: adapters are seated in the engine and evicted, or
uploaded over HTTP and deleted, at a steady rate.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from statistics import median

from galenic_server.bench.asking import Round, Speaker, ask_all, of_engine
from galenic_server.bench.stage import Arm, Stage, adapter, mixed, take_turns
from galenic_server.bench.workload import Prompt, arrivals
from galenic_server.engine.contract import Engine

LOAD = 0.7
"""Load as a share of bare's saturation, where the time to a first token would be all queueing."""


@dataclass(frozen=True, slots=True)
class Churn:
    """
    Describes churn: how adapters are added and removed, and how requests are sent meanwhile.

    calm, busy: names of the arms.   sample: name under which the times of additions are recorded.
    """

    part: str
    calm: str
    busy: str
    sample: str
    speak: Speaker
    add: Callable[[str], Awaitable[None]]
    remove: Callable[[str], Awaitable[None]]


async def measure(stage: Stage, engine: Engine) -> None:
    async def seat(name: str) -> None:
        await engine.seat([name])

    churn = Churn(
        "churn",
        "no churn",
        "churn",
        "seat under churn, ms",
        of_engine(engine),
        seat,
        engine.evict,
    )
    size = min(1000, max(stage.preset.sizes))
    await disturb(stage, churn, size, LOAD * await _saturation(stage, engine))


async def disturb(stage: Stage, churn: Churn, size: int, rate: float) -> None:
    """Send *rate* requests a second for *size* adapters, in turn with and without churn."""
    fresh = count(2 * 10**7)

    def prompts_of(number: int, *, is_busy: bool) -> list[Prompt]:
        """Draw prompts: both arms have the same arrivals, but texts of their own (for caches)."""
        rng = stage.rng(number, 7, is_busy)
        prompts = mixed(stage.draw(rng, stage.preset.num_requests), size, rng)
        starts = arrivals(rate, 1, len(prompts), stage.rng(number, 9))
        return [replace(prompt, start=at) for prompt, at in zip(prompts, starts, strict=True)]

    for number in range(-1, stage.preset.num_rounds):
        order = (churn.calm, churn.busy) if number % 2 else (churn.busy, churn.calm)
        for name in order:
            made, is_busy = Round(churn.part, name, number), name == churn.busy
            prompts = prompts_of(number, is_busy=is_busy)
            async with _going_on(stage, churn, fresh, is_on=is_busy):
                await ask_all(churn.speak, prompts, stage.preset.concurrency, made)
            if number >= 0:
                stage.rounds.append(made)


async def _saturation(stage: Stage, engine: Engine) -> float:
    def prompts_of(number: int) -> list[Prompt]:
        return stage.draw(stage.rng(number, 8), stage.preset.num_requests)

    await take_turns(stage, "churn", [Arm("bare", of_engine(engine), prompts_of)], 2)
    of_bare = [each for each in stage.rounds if (each.part, each.arm) == ("churn", "bare")]
    return median(each.measures["requests/s"] for each in of_bare)


@asynccontextmanager
async def _going_on(
    stage: Stage, churn: Churn, fresh: "count[int]", *, is_on: bool
) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_go_on(stage, churn, fresh)) if is_on else None
        yield
        if task:
            task.cancel()


async def _go_on(stage: Stage, churn: Churn, fresh: "count[int]") -> None:
    """Add adapters at the preset's rate, and remove each a second later."""
    inside: list[str] = []
    began = time.perf_counter()
    for number, name in enumerate(map(adapter, fresh)):
        await asyncio.sleep(began + number / stage.preset.churn - time.perf_counter())
        since = time.perf_counter()
        await churn.add(name)
        stage.samples.setdefault(churn.sample, []).append(1000 * (time.perf_counter() - since))
        inside.append(name)
        if len(inside) > stage.preset.churn:
            await churn.remove(inside.pop(0))
