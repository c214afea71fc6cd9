"""
What a task is: a template, a decoding constraint and a reader, and the facts they speak of.

Training, evaluation and serving all go through these, so the same text meets the same prompt in
all three.
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
    """Whether what the model said could be read; kept apart from what it said."""

    CLEAN = "clean"
    TRUNCATED = "truncated"  # ran out of tokens before the answer was complete
    OFF_SCHEMA = "off_schema"  # complete, and not an answer to this task


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat, as the backbone's chat template takes it."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The answer is one of these strings and nothing else."""

    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grammar:
    """The answer is a sentence of this GBNF grammar, whose start symbol is ``root``."""

    ebnf: str


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The answer is a JSON document of this schema (as JSON text)."""

    schema: str


Constraint = Choice | Grammar | JsonSchema


@dataclass(frozen=True, slots=True)
class Completion:
    """
    What the backbone said.

    finish: ``stop`` (the end token or a stop string) or ``length`` (out of tokens).
    logprob: summed natural log of the tokens' probabilities under the constraint, where asked for.
    """

    text: str
    finish: str
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    num_cached_tokens: int = 0
    logprob: float | None = None


@dataclass(frozen=True, slots=True)
class Answer(Generic[V]):
    """A value, or none, and how well it could be read. Nothing is guessed."""

    value: V | None
    reading: Reading
    confidence: float | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """Code points start to end (exclusive) of the text, as ``text[start:end]``."""

    start: int
    end: int
    text: str
    type: str | None = None


@dataclass(frozen=True, slots=True)
class Relation:
    """head stands in this relation to tail."""

    type: str
    head: Span
    tail: Span


class Task(Protocol[F, V]):
    """One task with its labels: ``read(write(value)) == value`` for every value it can express."""

    name: ClassVar[TaskName]
    template_version: ClassVar[int]
    labels: tuple[str, ...]

    def render(self, fields: F) -> tuple[Message, ...]:
        """The chat that asks the question; the backbone's chat template is applied to it later."""

    def constraint(self, fields: F) -> Constraint | None:
        """What the answer may look like; none for free text."""

    def max_tokens(self, fields: F) -> int:
        """Room for an answer of ordinary length, in tokens."""

    def write(self, value: V, fields: F) -> str:
        """The answer text that training teaches for *value*."""

    def read(self, completion: Completion, fields: F) -> Answer[V]:
        """What the completion says, never more than it says."""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled example: the fields of a task's input and the value to be answered."""

    id: str
    fields: Any
    value: Any
    extra: dict[str, str] = field(default_factory=dict)


def check_text(field: str, value: str) -> str:
    """*value* where it is a non-blank string that UTF-8 can hold, else `BadInput`."""
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
    """*labels* where they are distinct, non-empty and a single line each, else `BadInput`."""
    if len(set(labels)) != len(labels):
        raise BadInput("labels", f"{len(labels)} labels, {len(set(labels))} of them distinct")
    for label in labels:
        check_text("labels", label)
        if label != label.strip() or not label.isprintable():
            raise BadInput("labels", f"{label[:64]!r} has surrounding space or a control character")
    return tuple(labels)
