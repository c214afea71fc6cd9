"""
Named entity recognition: finds the spans of a text that are of the adapter's types.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import (
    Answer,
    Completion,
    Grammar,
    Message,
    Span,
    TaskName,
    check_labels,
    check_text,
)
from galenic_adapters.tasks.lists import list_grammar, read_lines, write_lines
from galenic_adapters.tasks.spans import locate

LONG_CHARS = 3000
CHARS_A_SPAN = 1000
"""A long text with fewer entities than one per so many characters gets a warning."""


@dataclass(frozen=True, slots=True)
class NerFields:
    text: str

    def __post_init__(self) -> None:
        check_text("text", self.text)


@dataclass(frozen=True, slots=True)
class Ner:
    """Asks for each mention once; every place where it occurs is an entity."""

    name: ClassVar[TaskName] = TaskName.NER
    template_version: ClassVar[int] = 1
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if not check_labels(self.labels):
            raise BadInput("labels", "NER needs at least one entity type")

    def render(self, fields: NerFields) -> tuple[Message, ...]:
        types = ", ".join(self.labels)
        order = f"List each {types} in the text as type: mention, one a line, or none."
        return (Message("system", order), Message("user", fields.text))

    def constraint(self, fields: NerFields) -> Grammar:
        return list_grammar(self.labels, "words")

    def max_tokens(self, fields: NerFields) -> int:
        return 256

    def write(self, value: tuple[Span, ...], fields: NerFields) -> str:
        return write_lines([(span.type or "", span.text) for span in value])

    def read(self, completion: Completion, fields: NerFields) -> Answer[tuple[Span, ...]]:
        pairs, reading = read_lines(completion, self.labels)
        if pairs is None:
            return Answer(None, reading)
        spans, missing = locate(pairs, fields.text)
        return Answer(spans, reading, warnings=tuple(_warnings(spans, missing, fields.text)))


def _warnings(spans: Sequence[Span], missing: Sequence[str], text: str) -> Iterator[str]:
    if missing:
        yield f"{len(missing)} mention(s) not found in the text were dropped"
    if len(text) >= LONG_CHARS and len(spans) * CHARS_A_SPAN < len(text):
        yield f"{len(spans)} entities are few for {len(text)} characters; shorter texts read better"
