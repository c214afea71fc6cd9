"""
Presets set the size of a study: its data, steps, seeds and draws.

They lie in ``adapters/recipes/study-*.json``; every report names its preset.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self

from pydantic.dataclasses import dataclass

from galenic_adapters.errors import BadInput, NotFound
from galenic_adapters.training.recipe import STRICT, Distillation, Phase, parsed

RECIPES = Path(__file__).parents[2] / "recipes"


@dataclass(frozen=True, slots=True, config=STRICT)
class Rates:
    """Sets the methods' peak learning rates; everything else of their budget is the same."""

    galenic: float = 0.02
    input: float = 0.1
    prompt_tuning: float = 0.03
    lora: float = 3e-3
    small_lora: float = 1e-2
    ia3: float = 0.02

    def of(self, method: str) -> float:
        """Return the rate of *method*; variants of our method use ours."""
        return float(asdict(self).get(method, self.galenic))


@dataclass(frozen=True, slots=True, config=STRICT)
class FewShot:
    """
    Sets the few-shot part.

    shots: the values of k.   draws: how often k examples are drawn.   phase: the budget of each
    run; the method sets its rate.   max_test: test examples of each target.
    """

    shots: tuple[int, ...]
    draws: int
    phase: Phase
    max_test: int


@dataclass(frozen=True, slots=True, config=STRICT)
class Preset:
    """
    Sets everything that a study depends on but its backbone and its data.

    sources, targets: names in the catalogue; empty means all.   teach, distil, student: training
    of the metaprompt.   target: every method's budget on a target.   start: the initial factor of
    targets.   variants: ablations to run.   max_test, max_dev: examples of each data set.
    max_tokens: longest answer, if the task's own limit is too slow.
    """

    teach: Phase
    student: Phase
    target: Phase
    seeds: int
    few_shot: FewShot
    variants: tuple[str, ...] = ()
    variant_seeds: int = 1
    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    distil: Distillation = Distillation()
    init: Literal["text", "vocabulary", "teachers"] = "text"
    start: Literal["ones", "mean", "task", "nearest"] = "nearest"
    rates: Rates = Rates()
    lora_rank: int = 8
    num_positions: int = 64
    rank: int = 16
    max_test: int = 500
    max_dev: int = 100
    max_text_tokens: int = 768
    max_tokens: int | None = None

    @classmethod
    def load(cls, name: str) -> Self:
        """Load a preset that comes with Galenic, or a file; raises `NotFound` or `BadInput`."""
        path = RECIPES / f"study-{name}.json"
        path = path if path.is_file() else Path(name)
        try:
            return cls.from_json(json.loads(path.read_text("utf-8-sig")))
        except OSError as e:
            known = ", ".join(
                sorted(p.stem.removeprefix("study-") for p in RECIPES.glob("study-*"))
            )
            raise NotFound(f"no preset {name[:80]!r}: it is a file or one of {known}") from e
        except json.JSONDecodeError as e:
            raise BadInput(str(path), f"is not JSON: {e}") from e

    @classmethod
    def from_json(cls, row: Any) -> Self:
        return parsed(cls, row, "preset")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
