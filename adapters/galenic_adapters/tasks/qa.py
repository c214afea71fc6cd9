"""
Question answering: answers with the letter of an option if there are options, else a short text.
"""

from dataclasses import dataclass
from typing import ClassVar

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import (
    Answer,
    Choice,
    Completion,
    Message,
    Reading,
    TaskName,
    check_labels,
    check_text,
)
from galenic_adapters.tasks.choices import read_choice, room_for


@dataclass(frozen=True, slots=True)
class QaFields:
    question: str
    context: str | None = None
    options: dict[str, str] | None = None

    def __post_init__(self) -> None:
        check_text("question", self.question)
        if self.context is not None:
            check_text("context", self.context)
        if self.options is not None:
            if len(self.options) < 2:
                raise BadInput("options", f"{len(self.options)} given, at least 2 needed")
            for letter, option in self.options.items():
                check_labels([letter])
                check_text(f"options.{letter}", option)


@dataclass(frozen=True, slots=True)
class Qa:
    """Answers questions; labels are not used, since options come with the question."""

    name: ClassVar[TaskName] = TaskName.QA
    template_version: ClassVar[int] = 1
    labels: tuple[str, ...] = ()

    def render(self, fields: QaFields) -> tuple[Message, ...]:
        lines = [fields.context, ""] if fields.context else []
        lines.append(f"Question: {fields.question}")
        if fields.options is None:
            order = "Answer the question in a few words."
        else:
            order = f"Answer the question with {', '.join(fields.options)}."
            lines += [f"{letter}. {option}" for letter, option in fields.options.items()]
        return (Message("system", order), Message("user", "\n".join(lines)))

    def constraint(self, fields: QaFields) -> Choice | None:
        return Choice(tuple(fields.options)) if fields.options else None

    def max_tokens(self, fields: QaFields) -> int:
        return room_for(tuple(fields.options)) if fields.options else 128

    def write(self, value: str, fields: QaFields) -> str:
        return value

    def read(self, completion: Completion, fields: QaFields) -> Answer[str]:
        choice = self.constraint(fields)
        return read_choice(completion, choice) if choice else read_text(completion)


def read_text(completion: Completion) -> Answer[str]:
    """Return the completion's free text, stripped; an empty one is off schema."""
    text = completion.text.strip()
    if not text:
        return Answer(None, Reading.OFF_SCHEMA)
    return Answer(text, Reading.TRUNCATED if completion.finish == "length" else Reading.CLEAN)
