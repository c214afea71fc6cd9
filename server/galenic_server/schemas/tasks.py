"""
Bodies of the clinical tasks' routes. Unknown fields are refused by name.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import Answer, Completion, Reading, Relation, Span
from galenic_adapters.tasks.ner import NerFields
from galenic_adapters.tasks.nli import NliFields
from galenic_adapters.tasks.qa import QaFields
from galenic_adapters.tasks.re import ReFields
from galenic_adapters.tasks.summarization import SummarizationFields
from galenic_server.registry.names import Resolved
from galenic_server.settings import MOST_DOCUMENTS

MAX_FIELDS = 256


def at_most(most: int) -> BeforeValidator:
    """A list or an object of no more; it is counted before any of it is looked at."""

    def counted(sent: Any) -> Any:
        if isinstance(sent, list | dict) and len(sent) > most:
            raise PydanticCustomError("too_long", "is too long", {"max_length": most})
        return sent

    return BeforeValidator(counted)


Flag = Annotated[bool, Field(strict=True)]
Real = Annotated[float, Field(strict=True)]
"""A JSON number; strings and booleans are not converted."""


class Body(BaseModel):
    """Validates JSON from a caller: no unknown fields, no NaN, and no values in errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _few(cls, sent: Any) -> Any:
        """Refuse more fields than anyone needs, each of which would be one more fault to tell."""
        if isinstance(sent, dict) and len(sent) > MAX_FIELDS:
            raise PydanticCustomError("too_long", "has many fields", {"max_length": MAX_FIELDS})
        return sent


class Document(Body):
    """One document of a batch; its answer has its *id*, or by default its place in the batch."""

    id: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    def fields(self) -> Any:
        """Return the task's fields; raises `BadInput`."""
        raise NotImplementedError


class Offsets(Body):
    """Delimits a part of the text, in code points, end-exclusive."""

    start: Annotated[int, Field(ge=0, strict=True)]
    end: Annotated[int, Field(ge=1, strict=True)]

    def span(self, text: str) -> Span:
        return Span(self.start, self.end, text[self.start : self.end])


class NerDocument(Document):
    text: str

    def fields(self) -> NerFields:
        return NerFields(self.text)


class ReDocument(Document):
    """Asks how *head* and *tail* relate or, without them, for every relation in the text."""

    text: str
    head: Offsets | None = None
    tail: Offsets | None = None

    def fields(self) -> ReFields:
        head = self.head.span(self.text) if self.head else None
        tail = self.tail.span(self.text) if self.tail else None
        return ReFields(self.text, head, tail)


class QaDocument(Document):
    """Asks a question; with *options* (letter to text), the answer is one of the letters."""

    question: str
    context: str | None = None
    options: Annotated[dict[str, str], Field(min_length=2), at_most(26)] | None = None

    def fields(self) -> QaFields:
        return QaFields(self.question, self.context, self.options)


class NliDocument(Document):
    premise: str
    hypothesis: str

    def fields(self) -> NliFields:
        return NliFields(self.premise, self.hypothesis)


class SummarizeDocument(Document):
    text: str

    def fields(self) -> SummarizationFields:
        return SummarizationFields(self.text)


D = TypeVar("D", bound=Document)


class Batch(Body, Generic[D]):
    """
    A batch of documents for one task.

    adapter: ``name``, ``name@version`` or an alias; the task's default if not given.
    max_tokens: the longest answer, if the task's own limit does not suit.
    """

    documents: Annotated[list[D], Field(min_length=1), at_most(MOST_DOCUMENTS)]
    adapter: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=100_000, strict=True)] | None = None

    def fields(self) -> list[Any]:
        """Return each document's fields; raises `BadInput` with the document's place."""
        return [_fields(i, document) for i, document in enumerate(self.documents)]

    def ids(self) -> list[str]:
        return [document.id or str(i) for i, document in enumerate(self.documents)]


def _fields(i: int, document: Document) -> Any:
    try:
        return document.fields()
    except BadInput as error:
        raise error.under(f"documents[{i}]") from None


class AnsweredBy(BaseModel):
    """Names the adapter that answered."""

    name: str
    version: int
    digest: str

    @classmethod
    def of(cls, adapter: Resolved) -> Self:
        return cls(name=adapter.ref.name, version=adapter.ref.version, digest=adapter.digest)


class Usage(BaseModel):
    """Counts tokens of texts and answers, without the adapter's prompt."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0

    @classmethod
    def of(cls, completions: Iterable[Completion]) -> Self:
        counts = [
            (c.num_prompt_tokens, c.num_completion_tokens, c.num_cached_tokens) for c in completions
        ]
        prompt, completion, cached = map(sum, zip(*counts, strict=True))
        return cls(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            cached_tokens=cached,
        )


class Read(BaseModel):
    """
    The answer to one document.

    reading: whether the answer could be read; if not, its value is null, never a guess.
    confidence: the model's probability for the answer among those allowed, if measured.
    """

    id: str
    reading: Reading
    confidence: float | None = None
    warnings: list[str] = []

    @classmethod
    def of(cls, id_: str, answer: Answer[Any]) -> Self:
        """Convert a document's answer."""
        return cls(
            id=id_,
            reading=answer.reading,
            confidence=answer.confidence,
            warnings=list(answer.warnings),
            **cls.fields_of(answer),
        )

    @classmethod
    def fields_of(cls, answer: Answer[Any]) -> dict[str, Any]:
        """Return the fields of the task's own."""
        raise NotImplementedError


class Argument(BaseModel):
    """Holds ``text[start:end]`` of the document, in code points."""

    start: int
    end: int
    text: str
    type: str | None = None

    @classmethod
    def of(cls, span: Span) -> Self:
        return cls(start=span.start, end=span.end, text=span.text, type=span.type)


class Entity(Argument):
    confidence: float | None = None


class Related(BaseModel):
    type: str
    head: Argument
    tail: Argument
    confidence: float | None = None

    @classmethod
    def of(cls, relation: Relation, confidence: float | None) -> Self:
        head, tail = Argument.of(relation.head), Argument.of(relation.tail)
        return cls(type=relation.type, head=head, tail=tail, confidence=confidence)


class NerRead(Read):
    entities: list[Entity] | None

    @classmethod
    def fields_of(cls, answer: Answer[tuple[Span, ...]]) -> dict[str, Any]:
        if answer.value is None:
            return {"entities": None}
        return {"entities": [Entity.of(span) for span in answer.value]}


class ReRead(Read):
    relations: list[Related] | None

    @classmethod
    def fields_of(cls, answer: Answer[tuple[Relation, ...]]) -> dict[str, Any]:
        if answer.value is None:
            return {"relations": None}
        return {"relations": [Related.of(found, answer.confidence) for found in answer.value]}


class QaRead(Read):
    """The answer to a question. answer: the option's letter if options were given."""

    answer: str | None

    @classmethod
    def fields_of(cls, answer: Answer[str]) -> dict[str, Any]:
        return {"answer": answer.value}


class NliRead(Read):
    label: str | None

    @classmethod
    def fields_of(cls, answer: Answer[str]) -> dict[str, Any]:
        return {"label": answer.value}


class SummarizeRead(Read):
    summary: str | None

    @classmethod
    def fields_of(cls, answer: Answer[str]) -> dict[str, Any]:
        return {"summary": answer.value}


R = TypeVar("R", bound=Read)


class Reply(BaseModel, Generic[R]):
    """Answers in the order of the documents. model: the backbone's name."""

    adapter: AnsweredBy
    model: str
    documents: list[R]
    usage: Usage
