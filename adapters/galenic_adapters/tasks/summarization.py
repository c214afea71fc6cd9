"""
Summarization: says a text in fewer words.
"""

from dataclasses import dataclass
from typing import ClassVar

from galenic_adapters.tasks.base import (
    Answer,
    Completion,
    Message,
    TaskName,
    check_text,
)
from galenic_adapters.tasks.qa import read_text


@dataclass(frozen=True, slots=True)
class SummarizationFields:
    text: str

    def __post_init__(self) -> None:
        check_text("text", self.text)


@dataclass(frozen=True, slots=True)
class Summarization:
    """Summarizes texts; labels are not used."""

    name: ClassVar[TaskName] = TaskName.SUMMARIZATION
    template_version: ClassVar[int] = 1
    labels: tuple[str, ...] = ()

    def render(self, fields: SummarizationFields) -> tuple[Message, ...]:
        return (Message("system", "Summarize the text."), Message("user", fields.text))

    def constraint(self, fields: SummarizationFields) -> None:
        return None

    def max_tokens(self, fields: SummarizationFields) -> int:
        return 384

    def write(self, value: str, fields: SummarizationFields) -> str:
        return value

    def read(self, completion: Completion, fields: SummarizationFields) -> Answer[str]:
        return read_text(completion)
