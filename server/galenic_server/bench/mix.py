"""
Measures ours against bare under various popularities of adapters, lengths and arrival bursts.
"""

from collections.abc import Callable
from dataclasses import replace
from statistics import median

from galenic_server.bench.asking import of_engine
from galenic_server.bench.preset import Lengths
from galenic_server.bench.stage import Arm, Stage, mixed, take_turns
from galenic_server.bench.workload import Prompt, arrivals
from galenic_server.engine.contract import Engine

SIZE = 1000


async def measure(stage: Stage, engine: Engine) -> None:
    preset = stage.preset
    popularities = ["uniform", "zipf", *(f"power {alpha:g}" for alpha in preset.alphas)]
    for how in popularities:
        await _pair(stage, engine, how, preset.lengths, preset.num_requests)
    for name, lengths in preset.mixed:
        await _pair(stage, engine, "uniform", lengths, preset.mixed_requests, label=name)
    at_most = saturation(stage)
    for load in preset.loads:
        for cv in preset.cvs:
            label = f"load {load:g}, cv {cv:g}"
            await _pair(
                stage,
                engine,
                "uniform",
                preset.lengths,
                preset.num_requests,
                label=label,
                when=_when(stage, load * at_most, cv),
            )


def saturation(stage: Stage) -> float:
    """Return the requests per second that bare reached in this part at full load."""
    rounds = [each for each in stage.rounds if (each.part, each.arm) == ("mix", "bare, uniform")]
    return median(each.measures["requests/s"] for each in rounds)


When = Callable[[int, int], list[float | None]]


def _when(stage: Stage, rate: float, cv: float) -> When:
    def of_round(number: int, count: int) -> list[float | None]:
        return list(arrivals(rate, cv, count, stage.rng(number, 5)))

    return of_round


async def _pair(
    stage: Stage,
    engine: Engine,
    how: str,
    lengths: Lengths,
    count: int,
    *,
    label: str = "",
    when: When = lambda number, count: [None] * count,
) -> None:
    label = label or how
    size = min(SIZE, max(stage.preset.sizes))

    def bare(number: int) -> list[Prompt]:
        prompts = stage.draw(stage.rng(number, 4), count, lengths)
        starts = when(number, count)
        return [replace(prompt, start=at) for prompt, at in zip(prompts, starts, strict=True)]

    def adapted(number: int) -> list[Prompt]:
        return mixed(bare(number), size, stage.rng(number, 6), how, tenant=f"mix-{number}")

    speak = of_engine(engine)
    arms = [
        Arm(f"bare, {label}", speak, bare, engine=engine),
        Arm(f"ours, {label}", speak, adapted, engine=engine),
    ]
    await take_turns(stage, "mix", arms)
