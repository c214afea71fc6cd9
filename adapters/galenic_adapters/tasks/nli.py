"""
Natural language inference: labels how a hypothesis relates to a premise.
"""

from dataclasses import dataclass
from typing import ClassVar

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import (
    Answer,
    Choice,
    Completion,
    Message,
    TaskName,
    check_labels,
    check_text,
)
from galenic_adapters.tasks.choices import read_choice, room_for


@dataclass(frozen=True, slots=True)
class NliFields:
    premise: str
    hypothesis: str

    def __post_init__(self) -> None:
        check_text("premise", self.premise)
        check_text("hypothesis", self.hypothesis)


@dataclass(frozen=True, slots=True)
class Nli:
    name: ClassVar[TaskName] = TaskName.NLI
    template_version: ClassVar[int] = 1
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(check_labels(self.labels)) < 2:
            raise BadInput("labels", f"NLI needs at least 2 labels, got {len(self.labels)}")

    def render(self, fields: NliFields) -> tuple[Message, ...]:
        order = f"Say how the second text relates to the first: {', '.join(self.labels)}."
        texts = f"First: {fields.premise}\nSecond: {fields.hypothesis}"
        return (Message("system", order), Message("user", texts))

    def constraint(self, fields: NliFields) -> Choice:
        return Choice(self.labels)

    def max_tokens(self, fields: NliFields) -> int:
        return room_for(self.labels)

    def write(self, value: str, fields: NliFields) -> str:
        return value

    def read(self, completion: Completion, fields: NliFields) -> Answer[str]:
        return read_choice(completion, Choice(self.labels))
