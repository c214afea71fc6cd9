"""
Relation extraction: labels a given head and tail, or lists every relation in the text.
"""

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import (
    Answer,
    Choice,
    Completion,
    Constraint,
    Message,
    Relation,
    Span,
    TaskName,
    check_labels,
    check_text,
)
from galenic_adapters.tasks.choices import read_choice, room_for
from galenic_adapters.tasks.lists import NOTHING, list_grammar, read_lines, write_lines
from galenic_adapters.tasks.spans import check_span, occurrences

ARROW = " -> "


@dataclass(frozen=True, slots=True)
class ReFields:
    text: str
    head: Span | None = None
    tail: Span | None = None

    def __post_init__(self) -> None:
        check_text("text", self.text)
        if (self.head is None) != (self.tail is None):
            raise BadInput("head", "head and tail come together or not at all")
        if self.head and self.tail:
            check_span("head", self.head, self.text)
            check_span("tail", self.tail, self.text)


@dataclass(frozen=True, slots=True)
class Re:
    """Answers a pair with one label (``none`` is no relation), a text with a list of relations."""

    name: ClassVar[TaskName] = TaskName.RE
    template_version: ClassVar[int] = 1
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if not set(check_labels(self.labels)) - {NOTHING}:
            raise BadInput("labels", "RE needs at least one relation type")

    @property
    def relations(self) -> tuple[str, ...]:
        return tuple(label for label in self.labels if label != NOTHING)

    def render(self, fields: ReFields) -> tuple[Message, ...]:
        types = ", ".join(self.labels)
        if fields.head and fields.tail:
            order = f"Say how <<head>> relates to [[tail]]: {types}."
            pair = f"{fields.head.text}{ARROW}{fields.tail.text}"
            return (Message("system", order), Message("user", f"{_marked(fields)}\n{pair}"))
        order = f"List each relation in the text as type: head{ARROW}tail, one a line, or none."
        return (Message("system", f"{order} Types: {types}."), Message("user", fields.text))

    def constraint(self, fields: ReFields) -> Constraint:
        if fields.head:
            return Choice(self.labels)
        return list_grammar(self.relations, f'words "{ARROW}" words')

    def max_tokens(self, fields: ReFields) -> int:
        return room_for(self.labels) if fields.head else 384

    def write(self, value: tuple[Relation, ...], fields: ReFields) -> str:
        if fields.head:
            return value[0].type if value else NOTHING
        return write_lines([(r.type, f"{r.head.text}{ARROW}{r.tail.text}") for r in value])

    def read(self, completion: Completion, fields: ReFields) -> Answer[tuple[Relation, ...]]:
        if fields.head and fields.tail:
            label = read_choice(completion, Choice(self.labels))
            if label.value is None:
                return Answer(None, label.reading)
            relations = (Relation(label.value, fields.head, fields.tail, label.confidence),)
            value = relations if label.value != NOTHING else ()
            return Answer(value, label.reading, label.confidence)
        return self._read_list(completion, fields.text)

    def _read_list(self, completion: Completion, text: str) -> Answer[tuple[Relation, ...]]:
        pairs, reading = read_lines(completion, self.relations)
        if pairs is None:
            return Answer(None, reading)
        located = [_located(*pair, text, confidence) for pair, confidence in pairs.items()]
        found = tuple(relation for relation in located if relation is not None)
        dropped = len(located) - len(found)
        warning = f"{dropped} relation(s) whose head or tail is not in the text were dropped"
        return Answer(found, reading, warnings=(warning,) if dropped else ())


def _marked(fields: ReFields) -> str:
    """Return the text with its head in << >> and its tail in [[ ]]."""
    assert fields.head is not None and fields.tail is not None
    marks = [
        (fields.head.start, 1, "<<"),
        (fields.head.end, 0, ">>"),
        (fields.tail.start, 1, "[["),
        (fields.tail.end, 0, "]]"),
    ]
    text = fields.text
    for at, _, mark in sorted(marks, reverse=True):
        text = text[:at] + mark + text[at:]
    return text


def _located(type_: str, item: str, text: str, confidence: float | None) -> Relation | None:
    """
    Locate a relation at the nearest occurrences of its head and tail; None if one is missing.

    An entity may itself hold an arrow, so every arrow is tried as the separator.
    """
    parts = item.split(ARROW)
    for cut in range(1, len(parts)):
        head, tail = ARROW.join(parts[:cut]), ARROW.join(parts[cut:])
        places = list(product(occurrences(head, text), occurrences(tail, text)))
        if places:
            (a, b), (c, d) = min(places, key=lambda two: abs(two[0][0] - two[1][0]))
            return Relation(type_, Span(a, b, text[a:b]), Span(c, d, text[c:d]), confidence)
    return None
