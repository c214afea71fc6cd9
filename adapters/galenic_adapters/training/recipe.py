"""
A recipe says everything that a training run depends on; it lies as JSON beside what it made.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from galenic_adapters.errors import BadInput


@dataclass(frozen=True, slots=True)
class Source:
    """
    One adapter's training data: files of one task in the JSONL schema, as paths below a folder that
    is named when the recipe runs.

    weight: how often it is drawn, relative to the others.   lists: for RE, whether texts are also
    asked for all their relations at once.
    """

    name: str
    task: str
    train: str
    dev: str | None = None
    dataset: str | None = None
    licence: str = "not stated"
    weight: float = 1.0
    lists: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """
    num_positions: P.   rank: R.   lr_metaprompt, lr_factor: Adam's peak rates; zero freezes.
    tasks_per_step: sources drawn for one step.   batch_tokens: text tokens of each of them.
    max_text_tokens: longer examples are left out, and counted.   init: text whose token vectors
    the metaprompt starts from.   dev_every: steps between looks at the dev loss.
    """

    sources: tuple[Source, ...]
    num_positions: int = 64
    rank: int = 16
    num_steps: int = 1000
    tasks_per_step: int = 3
    batch_tokens: int = 768
    max_text_tokens: int = 768
    lr_metaprompt: float = 0.03
    lr_factor: float = 0.1
    warmup: float = 0.03
    seed: int = 0
    init: str = (
        "You are a careful clinician who reads medical notes, articles and questions. Find what is "
        "asked for, copy names of diseases, drugs and findings exactly as they are written, choose "
        "the right label, answer briefly and say nothing else. "
    )
    dev_every: int = 100
    max_dev_examples: int = 100

    def __post_init__(self) -> None:
        if not self.sources:
            raise BadInput("sources", "at least one is needed")
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise BadInput("sources", f"{len(names)} names, {len(set(names))} of them distinct")

    @classmethod
    def load(cls, path: Path) -> Self:
        try:
            return cls.from_json(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as e:
            raise BadInput(str(path), f"is not a recipe: {e}") from e

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        return cls(**row | {"sources": tuple(Source(**source) for source in row["sources"])})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_json(), indent=2) + "\n", "utf-8")
