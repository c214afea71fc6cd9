"""
A recipe says everything that a training run depends on; it lies as JSON beside what it made.
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
    One adapter's training data: files of one task in the JSONL schema, as paths below a folder that
    is named when the recipe runs.

    weight: how often it is drawn, relative to the others.   lists: for RE, whether texts are also
    asked for all their relations at once.   shots: so many of the training examples only, drawn by
    *draw*.   labels: the closed set; by default, those that the training data use.
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
    One stretch of learning.

    lr: Adam's peak rate of what each task has alone (prompt, factor).   lr_shared: of the
    metaprompt; 0 freezes either.   rows_per_source: a step's examples, on average.   temperature,
    cap: how sources are balanced (see `stream`).   dev_every: steps between looks at the dev data;
    0 is never.   patience: looks without a new best for any task after which it stops; 0 is never.
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
    loss = task * NLL + kl * T² KL(teacher || student at temperature T) + hidden * MSE of the last
    hidden states relative to the teacher's size, all at answer positions.
    """

    task: float = 1.0
    kl: float = 1.0
    hidden: float = 1.0
    temperature: float = 2.0


@dataclass(frozen=True, slots=True, config=STRICT)
class Recipe:
    """
    form: where factors act: scales of activations inside the layers, in *places*, or a product at
    the input.   num_positions: P.   rank: R of a product.   learn: how the metaprompt and its
    factors learn.   teach, distil: how teachers learn, and what the student takes from them;
    without, it learns from data alone.
    init: the metaprompt begins as the token vectors of *text*, of a sample of the vocabulary, or
    as the mean of the teachers.
    max_text_tokens: longer examples are left out, and counted.   licence: of the adapters, as their
    maker says; a source's is its data's.   backbone: what it is for (a
    command may name another), of which architecture in ``adapters/recipes/architectures``.
    checkpointing: layers are computed again in the backward pass.
    batch_tokens: text tokens of a forward pass, where the machine's own are too many.
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
    """*row* as a *cls*; raises `BadInput` that names the field, or *what* where it is all of it."""
    try:
        return TypeAdapter(cls).validate_python(row)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or what
        raise BadInput(where, first["msg"]) from e
