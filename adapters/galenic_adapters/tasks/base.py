"""
Defines a task: its template, its decoding constraint and its reader, and the values they exchange.

Training, evaluation and serving all use these, so the same text gets the same prompt in all three.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from galenic_adapters.errors import BadInput

F = TypeVar("F", contravariant=True)
V = TypeVar("V")


class TaskName(StrEnum):
    NER = "ner"
    RE = "re"
    QA = "qa"
    NLI = "nli"
    SUMMARIZATION = "summarization"


class Reading(StrEnum):
    """Tells how well the model's output could be read; kept apart from what it says."""

    CLEAN = "clean"
    TRUNCATED = "truncated"  # ran out of tokens before the answer was complete
    OFF_SCHEMA = "off_schema"  # complete, and not an answer to this task


@dataclass(frozen=True, slots=True)
class Message:
    """Holds one turn of a chat, for the backbone's chat template."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Constrains the answer to be exactly one of these strings."""

    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grammar:
    """Constrains the answer to this GBNF grammar, whose start symbol is ``root``."""

    ebnf: str


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """Constrains the answer to a JSON document of this schema (given as JSON text)."""

    schema: str


Constraint = Choice | Grammar | JsonSchema


@dataclass(frozen=True, slots=True)
class Completion:
    """
    Holds the backbone's output.

    finish: ``stop`` (the end token or a stop string) or ``length`` (out of tokens).
    line_logprobs: log-probability in nats of each line of the text with its end, under the
    constraint; empty if not measured.
    """

    text: str
    finish: str
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    num_cached_tokens: int = 0
    line_logprobs: tuple[float, ...] = ()

    @property
    def logprob(self) -> float | None:
        """Return the log-probability of the whole text, or None if it was not measured."""
        return sum(self.line_logprobs) if self.line_logprobs else None


@dataclass(frozen=True, slots=True)
class Answer(Generic[V]):
    """Holds the value that was read, or None, and how well it could be read; never a guess."""

    value: V | None
    reading: Reading
    confidence: float | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """
    Holds ``text[start:end]`` of a text, in code points, with its type.

    confidence: the probability that it is right, if measured; spans are compared without it.
    """

    start: int
    end: int
    text: str
    type: str | None = None
    confidence: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Relation:
    """Relates head to tail; compared without its confidence."""

    type: str
    head: Span
    tail: Span
    confidence: float | None = field(default=None, compare=False)


class Task(Protocol[F, V]):
    """Asks and reads one task: ``read(write(value)) == value`` for every value it can express."""

    name: ClassVar[TaskName]
    template_version: ClassVar[int]
    labels: tuple[str, ...]

    def render(self, fields: F) -> tuple[Message, ...]:
        """Render the chat that asks the question; the chat template is applied to it later."""

    def constraint(self, fields: F) -> Constraint | None:
        """Return the constraint on the answer; None for free text."""

    def max_tokens(self, fields: F) -> int:
        """Return the longest ordinary answer in tokens."""

    def write(self, value: V, fields: F) -> str:
        """Return the answer text that training teaches for *value*."""

    def read(self, completion: Completion, fields: F) -> Answer[V]:
        """Read the completion's value; nothing is added to what it says."""


@dataclass(frozen=True, slots=True)
class Example:
    """Holds one labelled example: the fields of a task's input and the expected value."""

    id: str
    fields: Any
    value: Any
    extra: dict[str, str] = field(default_factory=dict)


def check_text(field: str, value: str) -> str:
    """Return *value*; raises `BadInput` if it is blank, not encodable as UTF-8, or holds NUL."""
    if not value.strip():
        raise BadInput(field, "is empty")
    return check_characters(field, value)


def check_characters(field: str, value: str) -> str:
    """*value* where UTF-8 can hold it and no NUL ends it, else `BadInput`."""
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise BadInput(field, "holds a lone surrogate, which is not Unicode text")
    if "\0" in value:
        raise BadInput(field, "holds a NUL character")
    return value


def check_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Return *labels*; raises `BadInput` unless they are distinct, non-empty single lines."""
    if len(set(labels)) != len(labels):
        raise BadInput("labels", f"{len(labels)} labels, {len(set(labels))} of them distinct")
    for label in labels:
        check_text("labels", label)
        if label != label.strip() or not label.isprintable():
            raise BadInput("labels", f"{label[:64]!r} has surrounding space or a control character")
    return tuple(labels)
