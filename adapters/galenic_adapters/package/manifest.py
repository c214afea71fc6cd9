"""
The manifest of an adapter, which is stored inside the package as JSON.

Every string and list is bounded, every number is finite and no field is unknown, so every manifest
is well-formed.
"""

import json
import re
from collections.abc import Callable, Collection
from datetime import date
from math import prod
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from galenic_adapters.errors import BadInput
from galenic_adapters.refs import check_name
from galenic_adapters.tasks.base import TaskName, check_text
from galenic_adapters.tasks.lookup import make_task

T = TypeVar("T")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_FORMS = {
    **dict.fromkeys(("u", "v", "rows"), "input"),
    **dict.fromkeys(("keys", "values"), "deep"),
    "scales": "scales",
}
DType = Literal["float32", "bfloat16", "float16"]


def _problem(error: BadInput) -> str:
    return str(error).removeprefix(f"{error.field}: ")


def _checked(check: Callable[[str, T], T]) -> AfterValidator:
    """Wrap a check of ours for pydantic, which adds the field's path to its errors."""

    def validate(value: T) -> T:
        try:
            return check("", value)
        except BadInput as error:
            raise ValueError(_problem(error)) from None

    return AfterValidator(validate)


def _check_line(field: str, value: str) -> str:
    if not check_text(field, value).isprintable():
        raise BadInput(field, "holds a line break or a control character")
    return value


def _check_prose(field: str, value: str) -> str:
    if not all(letter.isprintable() or letter in BREAKS_AND_JOINERS for letter in value):
        raise BadInput(field, "holds a control character, or one that turns the direction of text")
    return check_text(field, value) if value else value


BREAKS_AND_JOINERS = frozenset("\n\t\u200c\u200d")
"""What prose may hold beside printable letters: breaks, and joiners of several scripts."""
Name = Annotated[str, Field(max_length=64), _checked(check_name)]
Line = Annotated[str, Field(max_length=200), _checked(_check_line)]
Prose = Annotated[str, Field(max_length=4000), _checked(_check_prose)]
Digest = Annotated[str, Field(pattern=rf"^{DIGEST.pattern}$")]
Label = Annotated[str, Field(max_length=128)]
Labels = Annotated[tuple[Label, ...], Field(max_length=256)]
TensorName = Literal[
    "u",
    "v",
    "rows",
    "keys",
    "values",
    "scales.q",
    "scales.k",
    "scales.v",
    "scales.o",
    "scales.f",
]
Size = Annotated[int, Field(ge=1, le=2**20)]
Shape = Annotated[tuple[Size, ...], Field(min_length=2, max_length=3)]


class _Record(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class BackboneId(_Record):
    """Names a frozen model and the revision of its weights."""

    name: Line
    revision: Line

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}"


class Score(_Record):
    """
    Holds a score on *split*, beside two baselines on the same examples.

    untuned: the untuned backbone's.   constant: that of the best constant label.
    """

    dataset: Line
    split: Line
    metric: Line
    value: float
    untuned: float | None = None
    constant: float | None = None
    num_examples: int = Field(ge=1)


class Calibration(_Record):
    """
    Corrects the confidences of answers (see `tasks.confidence`).

    dataset, split, num_answers: the answers that it was fitted on.   brier, brier_before: the mean
    squared error of the corrected and the uncorrected confidences of answers that it was not fitted
    on (cross-validated).
    """

    slope: float
    intercept: float
    dataset: Line
    split: Line
    num_answers: int = Field(ge=1)
    brier: float = Field(ge=0, le=1)
    brier_before: float = Field(ge=0, le=1)


class TrainingSet(_Record):
    """Names a data set that the adapter was trained on, and its licence."""

    dataset: Line
    licence: Line


class Manifest(_Record):
    """
    Describes an adapter.

    name: its suggested name.   template_version: the version of the task's template that it was
    trained under, for which alone its scores hold.   metaprompt: digest of the metaprompt that it
    acts on; None if it needs none.   shapes: its tensors' shapes by name; all have one *dtype*.

    Schema 1, which knew only a product of u (positions, rank) and v (rank, width), is still read.
    """

    schema_version: Literal[2] = 2
    name: Name
    task: TaskName
    labels: Labels
    template_version: int = Field(ge=1, le=10**6)
    backbone: BackboneId
    metaprompt: Digest | None
    shapes: dict[TensorName, Shape] = Field(min_length=1)
    dtype: DType
    scores: tuple[Score, ...] = Field(default=(), max_length=32)
    calibration: Calibration | None = None
    trained_on: tuple[TrainingSet, ...] = Field(default=(), max_length=32)
    licence: Line
    created: date
    description: Prose = ""

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **how: Any) -> Self:
        """Read a manifest of this schema or the first one."""
        return super().model_validate_json(_of_schema_2(json_data), **how)

    @property
    def forms(self) -> tuple[str, ...]:
        """Return the forms of this adapter's factor, of input, deep and scales."""
        return tuple(dict.fromkeys(_FORMS[name.partition(".")[0]] for name in self.shapes))

    @property
    def rank(self) -> int:
        """Return R of a product at the input, or 0 if there is none."""
        return self.shapes["u"][-1] if "u" in self.shapes else 0

    @property
    def num_positions(self) -> int:
        """Return the number of positions of the adapter's own prompt, or 0 if it has none."""
        if "keys" in self.shapes:
            return self.shapes["keys"][1]
        return self.shapes.get("u", self.shapes.get("rows", (0,)))[0]

    @property
    def num_parameters(self) -> int:
        return sum(prod(shape) for shape in self.shapes.values())

    def misfit(self, backbone: BackboneId, metaprompts: Collection[str]) -> str | None:
        """Return why the adapter does not fit, naming both values, or None if it fits."""
        if self.backbone != backbone:
            return f"is for backbone {self.backbone}, this server has {backbone}"
        if self.metaprompt is not None and self.metaprompt not in metaprompts:
            here = ", ".join(sorted(metaprompts)) or "none"
            return f"is for metaprompt {self.metaprompt}, this server has {here}"
        return None

    @field_validator("labels")
    @classmethod
    def _suit_the_task(cls, labels: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "task" not in info.data:
            return labels  # the task's own fault is reported
        try:
            return make_task(info.data["task"], labels).labels
        except BadInput as error:
            raise ValueError(_problem(error)) from None


def _of_schema_2(text: str | bytes | bytearray) -> str | bytes | bytearray:
    """Convert a manifest of schema 1 to schema 2; anything else is returned as it is."""
    try:
        row = json.loads(text)
        if not isinstance(row, dict) or row.get("schema_version") != 1:
            return text
        rank, positions, width = (row.pop(name) for name in ("rank", "positions", "width"))
    except (ValueError, KeyError):
        return text  # the model reports its faults
    shapes = {"u": [positions, rank], "v": [rank, width]}
    return json.dumps(row | {"schema_version": 2, "shapes": shapes})
