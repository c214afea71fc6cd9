"""
What an adapter says about itself; it travels inside the package as JSON.

Every string and list is bounded, every number finite, no field unknown: a manifest that exists is
well-formed.
"""

import re
from collections.abc import Callable
from datetime import date
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from galenic_adapters.errors import BadInput
from galenic_adapters.refs import check_name
from galenic_adapters.tasks.base import TaskName, check_text
from galenic_adapters.tasks.lookup import make_task

T = TypeVar("T")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
DType = Literal["float32", "bfloat16", "float16"]


def _problem(error: BadInput) -> str:
    return str(error).removeprefix(f"{error.field}: ")


def _checked(check: Callable[[str, T], T]) -> AfterValidator:
    """A check of ours, told to pydantic, which knows the field's path better than we do here."""

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
    return check_text(field, value) if value else value


Name = Annotated[str, Field(max_length=64), _checked(check_name)]
Line = Annotated[str, Field(max_length=200), _checked(_check_line)]
Prose = Annotated[str, Field(max_length=4000), _checked(_check_prose)]
Digest = Annotated[str, Field(pattern=rf"^{DIGEST.pattern}$")]
Label = Annotated[str, Field(max_length=128)]
Labels = Annotated[tuple[Label, ...], Field(max_length=256)]


class _Record(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class BackboneId(_Record):
    """Which frozen model: its name, and the revision of its weights."""

    name: Line
    revision: Line

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}"


class Score(_Record):
    """
    One measurement on *split*; on the same examples, the untuned backbone's and that of the best
    label when always given.
    """

    dataset: Line
    split: Line
    metric: Line
    value: float
    untuned: float | None = None
    constant: float | None = None
    num_examples: int = Field(ge=1)


class TrainingSet(_Record):
    """Data that the adapter learned from, and what its licence allows."""

    dataset: Line
    licence: Line


class Manifest(_Record):
    """
    *name* is the adapter's suggested name; *positions* (P), *width* (D), *rank* (R) and *dtype* are
    its tensors'. *metaprompt* is the digest of the P* it scales. *template_version* is the task's
    that it learned under, and the only one its scores hold for.
    """

    schema_version: Literal[1] = 1
    name: Name
    task: TaskName
    labels: Labels
    template_version: int = Field(ge=1, le=10**6)
    backbone: BackboneId
    metaprompt: Digest
    rank: int = Field(ge=1, le=4096)
    positions: int = Field(ge=1, le=2**14)
    width: int = Field(ge=1, le=2**16)
    dtype: DType
    scores: tuple[Score, ...] = Field(default=(), max_length=32)
    trained_on: tuple[TrainingSet, ...] = Field(default=(), max_length=32)
    licence: Line
    created: date
    description: Prose = ""

    def misfit(self, backbone: BackboneId, metaprompt: str) -> str | None:
        """What the adapter was made for where that is not this server, naming both; else none."""
        if self.backbone != backbone:
            return f"is for backbone {self.backbone}, this server has {backbone}"
        if self.metaprompt != metaprompt:
            return f"is for metaprompt {self.metaprompt}, this server has {metaprompt}"
        return None

    @field_validator("labels")
    @classmethod
    def _suit_the_task(cls, labels: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "task" not in info.data:
            return labels  # the task's own fault is told
        try:
            return make_task(info.data["task"], labels).labels
        except BadInput as error:
            raise ValueError(_problem(error)) from None
