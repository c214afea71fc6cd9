"""
Measures constrained tasks against free answers of exactly the same lengths.

Each constrained request is run once beforehand, greedily and unmeasured, to learn the length of its
answer. Both arms may then generate that many tokens, and the free one may not end before.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from galenic_adapters.tasks.base import Constraint
from galenic_adapters.tasks.ner import Ner, NerFields
from galenic_adapters.tasks.nli import Nli, NliFields
from galenic_server.bench.asking import of_engine
from galenic_server.bench.stage import Arm, Stage, mixed, take_turns
from galenic_server.bench.workload import Prompt
from galenic_server.engine.contract import Engine

NER = Ner(("Disease", "Drug")).constraint(NerFields("a"))
NLI = Nli(("entailment", "neutral", "contradiction")).constraint(NliFields("a", "b"))


async def measure(stage: Stage, engine: Engine) -> None:
    for name, constraint in (("NER", NER), ("NLI", NLI)):
        await _measure(stage, engine, name, constraint)


async def _measure(stage: Stage, engine: Engine, name: str, constraint: Constraint) -> None:
    speak = of_engine(engine)
    rounds: dict[int, list[Prompt]] = {}
    for number in range(-1, stage.preset.num_rounds):
        rounds[number] = await _of_true_length(stage, engine, number, constraint)

    def free(number: int) -> list[Prompt]:
        """Return the prompts unconstrained, as another tenant's, whose cache lacks these texts."""
        return [
            replace(prompt, constraint=None, tenant=f"{prompt.tenant}-free")
            for prompt in rounds[number]
        ]

    arms = [
        Arm(name, speak, rounds.__getitem__, engine=engine),
        Arm(f"{name}, free", speak, free, engine=engine),
    ]
    await take_turns(stage, "constrained", arms)


async def _of_true_length(
    stage: Stage, engine: Engine, number: int, constraint: Constraint
) -> list[Prompt]:
    rng = stage.rng(number, 9)
    drawn = stage.draw(rng, stage.preset.num_requests)
    prompts = mixed(drawn, min(1000, max(stage.preset.sizes)), rng, constraint=constraint)
    lengths = await _lengths(engine, prompts, stage.preset.concurrency)
    fresh = stage.draw(stage.rng(number, 9), len(prompts))  # the same texts for fresh tenants
    return [
        replace(prompt, num_tokens=length, tenant=other.tenant)
        for prompt, length, other in zip(prompts, lengths, fresh, strict=True)
    ]


async def _lengths(engine: Engine, prompts: Sequence[Prompt], concurrency: int) -> list[int]:
    turns = asyncio.Semaphore(concurrency)

    async def length(prompt: Prompt) -> int:
        async with turns:
            return sum([delta.num_tokens async for delta in of_engine(engine)(prompt)])

    return list(await asyncio.gather(*map(length, prompts)))
