"""
Recipes: everything that a training run depends on, stored as JSON beside the run's results.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from galenic_adapters.errors import BadInput
from galenic_adapters.files import text_of

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
TEXT = (
    "You are a careful clinician who reads medical notes, articles and questions. Find what is "
    "asked for, copy names of diseases, drugs and findings exactly as they are written, choose "
    "the right label, answer briefly and say nothing else. "
)


@dataclass(frozen=True, slots=True, config=STRICT)
class Source:
    """
    Names one adapter's training data: JSONL files of one task, as paths below a data folder.

    weight: how often it is drawn relative to other sources.   lists: for RE, also ask for all
    relations of a text at once.   shots: use only that many training examples, drawn with the seed
    *draw*.   labels: the closed set; by default, the labels found in the training data.
    """

    name: str
    task: str
    train: str
    dev: str | None = None
    dataset: str | None = None
    licence: str = "not stated"
    weight: float = 1.0
    lists: bool = False
    shots: int | None = None
    draw: int = 0
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, config=STRICT)
class Phase:
    """
    Sets the optimizer and the sampler for one stretch of training.

    lr: AdamW's peak rate for each task's own parameters (prompt, factor).   lr_shared: its peak
    rate for the metaprompt; 0 freezes either.   rows_per_source: mean examples of a source per
    step.   warmup: share of the steps.   temperature, cap: balance of sources (see `stream`).
    dev_every: steps between dev evaluations; 0 is never.   patience: stop after so many dev
    evaluations without a new best of any task; 0 is never.
    """

    num_steps: int
    lr: float
    lr_shared: float = 0.0
    rows_per_source: int = 4
    warmup: float = 0.03
    temperature: float = 2.0
    cap: int = 5000
    dev_every: int = 100
    patience: int = 0


@dataclass(frozen=True, slots=True, config=STRICT)
class Distillation:
    """
    Weighs the parts of the distillation loss, all at answer positions:

    loss = task * NLL + kl * T² KL(teacher || student at temperature T) + hidden * MSE of the last
    hidden states relative to the teacher's mean square.
    """

    task: float = 1.0
    kl: float = 1.0
    hidden: float = 1.0
    temperature: float = 2.0


@dataclass(frozen=True, slots=True, config=STRICT)
class Recipe:
    """
    Sets everything that a training run depends on but its data and its backbone's weights.

    form: factors scale activations inside the layers, at *places*, or are a product at the input.
    num_positions: P.   rank: R of a product.   learn: trains the metaprompt and its factors.
    teach, distil: train teachers, and distil from them; without, the student trains on data alone.
    init: initialize the metaprompt from the token vectors of *text*, from a random sample of the
    vocabulary, or from the mean of the teachers.
    max_text_tokens: longer examples are left out, and counted.   licence: the adapters' licence; a
    source has its data's.   backbone: the default one; a command may name another.
    architecture: its name in ``adapters/recipes/architectures``.
    checkpointing: recompute layers in the backward pass.
    batch_tokens: text tokens per forward pass, if the machine's default is too large.
    """

    sources: tuple[Source, ...]
    learn: Phase
    teach: Phase | None = None
    distil: Distillation | None = None
    form: Literal["scales", "input"] = "scales"
    places: tuple[Literal["q", "k", "v", "o", "f"], ...] = ("o", "f")
    num_positions: int = 64
    rank: int = 16
    init: Literal["text", "vocabulary", "teachers"] = "text"
    text: str = TEXT
    max_text_tokens: int = 768
    max_dev_examples: int = 100
    seed: int = 0
    licence: str = "not stated"
    backbone: str | None = None
    architecture: str | None = None
    checkpointing: bool = False
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise BadInput("sources", "at least one is needed")
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise BadInput("sources", f"{len(names)} names, {len(set(names))} of them distinct")
        if self.form == "scales" and not self.places:
            raise BadInput("places", "at least one is needed where the form is scales")
        if self.teach is None and (self.distil or self.init == "teachers"):
            raise BadInput("teach", "is missing, and there is no distillation without teachers")

    @classmethod
    def load(cls, path: Path) -> Self:
        try:
            return cls.from_json(json.loads(text_of(path)))
        except ValueError as e:
            raise BadInput(str(path), f"is not a recipe: {e}") from e

    @classmethod
    def from_json(cls, row: Any) -> Self:
        return parsed(cls, row, "recipe")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_json(), indent=2) + "\n", "utf-8")


def parsed(cls: type[T], row: Any, what: str) -> T:
    """
    Validate *row* as a *cls*.

    Raises `BadInput` that names the faulty field, or *what* if the whole row is wrong.
    """
    try:
        return TypeAdapter(cls).validate_python(row)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or what
        raise BadInput(where, first["msg"]) from e
