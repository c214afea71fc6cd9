"""
The state that all parts of a run share: backbone, random adapters for it, and measurements.

Dimension key:  P prompt positions   D model width   L layers   W width of an activation
"""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.random import Generator

from galenic_adapters.factor import Composed, Factor, compose
from galenic_adapters.shape import BackboneShape
from galenic_server.bench.asking import Round, Speaker, ask_all
from galenic_server.bench.preset import Form, Lengths, Preset
from galenic_server.bench.workload import Prompt, popular, texts
from galenic_server.engine.contract import Engine, EngineConfig

SCALED = ("o", "f")
"""The places where measured adapters act, as the zoo's do."""
SPARE_SLOTS = 256
"""Slots for adapters that are uploaded while the others are resident."""


@dataclass(frozen=True, slots=True)
class Factors:
    """
    Makes a random factor of one form for any name, on demand; it needs no metaprompt.

    num_positions: of prompts, at the input or deep.
    """

    form: Form
    shape: BackboneShape
    num_positions: int

    def __call__(self, name: str) -> Factor:
        rng = torch.Generator().manual_seed(int(name.rpartition("-")[2]))
        if self.form == "scales":
            shapes = self.shape.scale_shapes(SCALED)
            return Factor(
                scales={p: 1 + 0.1 * torch.randn(size, generator=rng) for p, size in shapes.items()}
            )
        if self.form == "input":
            size = (self.num_positions, self.shape.width)
            return Factor(rows_PD=0.1 * torch.randn(size, generator=rng))
        deep = (2, self.shape.num_layers, self.num_positions, self.shape.keys)
        keys_LPW, values_LPW = 0.1 * torch.randn(deep, generator=rng)
        return Factor(keys_LPW=keys_LPW, values_LPW=values_LPW.clone())


def adapter(number: int) -> str:
    return f"bench-{number}"


def mixed(
    prompts: Sequence[Prompt], size: int, rng: Generator, how: str = "uniform", **more: Any
) -> list[Prompt]:
    """Give each prompt one of *size* adapters, drawn by popularity *how*; *more* sets fields."""
    chosen = popular(how, len(prompts), size, rng)
    pairs = zip(prompts, chosen, strict=True)
    return [replace(prompt, adapter=adapter(i), **more) for prompt, i in pairs]


@dataclass(slots=True)
class Stage:
    """
    Holds a run's setup and measurements.

    vocabulary: first and last token (exclusive) that texts are drawn from.   missing: why parts
    could not be measured.
    """

    preset: Preset
    kind: str
    backbone: str
    shape: BackboneShape
    vocabulary: tuple[int, int]
    options: dict[str, Any] = field(default_factory=dict)
    enforce_eager: bool = False
    rounds: list[Round] = field(default_factory=list)
    samples: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def factors(self) -> Factors:
        return Factors(self.preset.form, self.shape, self.preset.num_positions)

    @property
    def has_weights(self) -> bool:
        return self.options.get("load_format") != "dummy"

    def rng(self, *keys: int) -> Generator:
        return np.random.default_rng([self.preset.seed, *(key + 1 for key in keys)])

    def adapters_of(self, names: Sequence[str]) -> dict[str, Composed]:
        """Compose the adapters of these names for an engine."""
        return {name: compose(None, self.factors(name)) for name in names}

    def config(self, num_slots: int, *, eager: bool | None = None) -> EngineConfig:
        return EngineConfig(
            backbone=self.backbone,
            secret=secrets.token_bytes(32),
            dtype=self.preset.dtype,
            num_slots=num_slots + SPARE_SLOTS,
            places=SCALED if self.preset.form == "scales" else (),
            context_tokens=self.preset.context_tokens,
            enforce_eager=self.enforce_eager if eager is None else eager,
            options=dict(self.options),
        )

    def draw(self, rng: Generator, count: int, lengths: Lengths | None = None) -> list[Prompt]:
        """Draw *count* prompts without an adapter."""
        made = texts(lengths or self.preset.lengths, count, self.vocabulary, rng)
        return [Prompt(ids, answer, tenant=secrets.token_hex(4)) for ids, answer in made]


@dataclass(frozen=True, slots=True)
class Arm:
    """
    Defines one variant to measure.

    prompts_of: the prompts of a round.   before: unmeasured preparation of a round.   engine: the
    one whose prefix cache is recorded.
    """

    name: str
    speak: Speaker
    prompts_of: Callable[[int], list[Prompt]]
    before: Callable[[Sequence[Prompt]], Awaitable[None]] | None = None
    engine: Engine | None = None


async def take_turns(
    stage: Stage, part: str, arms: Sequence[Arm], num_rounds: int | None = None
) -> None:
    """Run every arm in every round, in rotating order; a first, unmeasured round warms up."""
    num_rounds = num_rounds or stage.preset.num_rounds
    for number in range(-1, num_rounds):
        at = number % len(arms)
        for arm in (*arms[at:], *arms[:at]):
            measured = await _turn(stage, part, arm, number)
            if number >= 0:
                stage.rounds.append(measured)


async def _turn(stage: Stage, part: str, arm: Arm, number: int) -> Round:
    prompts = arm.prompts_of(number)
    if arm.before is not None:
        await arm.before(prompts)
    before = await arm.engine.stats() if arm.engine else None
    made = Round(part, arm.name, number)
    await ask_all(arm.speak, prompts, stage.preset.concurrency, made)
    if arm.engine and before:
        after = await arm.engine.stats()
        made.queries = after.prefix_queries - before.prefix_queries
        made.hits = after.prefix_hits - before.prefix_hits
    return made
