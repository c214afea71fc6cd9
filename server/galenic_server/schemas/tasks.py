"""
Bodies of the clinical tasks' routes. Unknown fields are refused by name.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import Answer, Completion, Reading, Relation, Span
from galenic_adapters.tasks.ner import NerFields
from galenic_adapters.tasks.nli import NliFields
from galenic_adapters.tasks.qa import QaFields
from galenic_adapters.tasks.re import ReFields
from galenic_adapters.tasks.summarization import SummarizationFields
from galenic_server.registry.names import Resolved
from galenic_server.schemas.offsets import OffsetUnit, Ruler
from galenic_server.settings import MOST_DOCUMENTS

MAX_ID = 200
CODEPOINTS = Ruler()


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
    most_fields: ClassVar[int] = 256

    @model_validator(mode="before")
    @classmethod
    def _few(cls, sent: Any) -> Any:
        """Refuse more fields than anyone needs, each of which would be one more fault to tell."""
        if isinstance(sent, dict) and len(sent) > cls.most_fields:
            most = {"max_length": cls.most_fields}
            raise PydanticCustomError("too_long", "has many fields", most)
        return sent


class Document(Body):
    """One document of a batch; its answer has its *id*, or by default its place in the batch."""

    most_fields: ClassVar[int] = 16
    id: Annotated[str, Field(min_length=1, max_length=MAX_ID)] | None = None

    def fields(self, unit: OffsetUnit = OffsetUnit.CODEPOINT) -> Any:
        """Return the task's fields, from offsets that count *unit*; raises `BadInput`."""
        raise NotImplementedError


class Offsets(Body):
    """
    Delimits a part of the text, end-exclusive.

    An entity of ``/v1/ner`` is taken as it came. *text* must be what stands there, if it is given;
    *type* and *confidence* are not used.
    """

    most_fields: ClassVar[int] = 16
    start: Annotated[int, Field(ge=0, strict=True)]
    end: Annotated[int, Field(ge=1, strict=True)]
    text: str | None = None
    type: str | None = None
    confidence: Real | None = None

    def span(self, field: str, text: str, ruler: Ruler) -> Span:
        start = ruler.to_codepoint(field, self.start)
        end = ruler.to_codepoint(field, self.end)
        return Span(start, end, text[start:end] if self.text is None else self.text)


class NerDocument(Document):
    text: str

    def fields(self, unit: OffsetUnit = OffsetUnit.CODEPOINT) -> NerFields:
        return NerFields(self.text)


class ReDocument(Document):
    """Asks how *head* and *tail* relate or, without them, for every relation in the text."""

    text: str
    head: Offsets | None = None
    tail: Offsets | None = None

    def fields(self, unit: OffsetUnit = OffsetUnit.CODEPOINT) -> ReFields:
        ruler = Ruler.of(self.text, unit)
        head = self.head.span("head", self.text, ruler) if self.head else None
        tail = self.tail.span("tail", self.text, ruler) if self.tail else None
        return ReFields(self.text, head, tail)


class QaDocument(Document):
    """Asks a question; with *options* (letter to text), the answer is one of the letters."""

    question: str
    context: str | None = None
    options: Annotated[dict[str, str], Field(min_length=2), at_most(26)] | None = None

    def fields(self, unit: OffsetUnit = OffsetUnit.CODEPOINT) -> QaFields:
        return QaFields(self.question, self.context, self.options)


class NliDocument(Document):
    premise: str
    hypothesis: str

    def fields(self, unit: OffsetUnit = OffsetUnit.CODEPOINT) -> NliFields:
        return NliFields(self.premise, self.hypothesis)


class SummarizeDocument(Document):
    text: str

    def fields(self, unit: OffsetUnit = OffsetUnit.CODEPOINT) -> SummarizationFields:
        return SummarizationFields(self.text)


D = TypeVar("D", bound=Document)


@dataclass(frozen=True, slots=True)
class Broken:
    """Stands for a document that is not of its task's form."""

    sent: Any
    error: ValidationError

    @property
    def faults(self) -> Sequence[Any]:
        """Return what pydantic found, without values."""
        return self.error.errors(include_url=False, include_input=False)

    @property
    def id(self) -> str | None:
        """Return the id that was sent, if it is one."""
        found = self.sent.get("id") if isinstance(self.sent, dict) else None
        return found if isinstance(found, str) and 0 < len(found) <= MAX_ID else None


def _or_broken(sent: Any, validate: Callable[[Any], Any]) -> Any:
    """Keep a faulty document apart, so that it does not refuse the whole batch."""
    try:
        return validate(sent)
    except ValidationError as error:
        return Broken(sent, error)


def _any_items(schema: dict[str, Any]) -> None:
    """Let the API's document say that an item of another form refuses no batch."""
    other = {"description": "Anything else has an error of its own in the reply."}
    schema["items"] = {"anyOf": [schema["items"], other]}


class Batch(Body, Generic[D]):
    """
    A batch of documents for one task.

    Each document has an answer or an error of its own; the request is refused if none can be
    answered.

    adapter: ``name``, ``name@version`` or an alias; the task's default if not given.
    max_tokens: the longest answer, if the task's own limit does not suit.
    """

    documents: Annotated[
        list[Annotated[D, WrapValidator(_or_broken)]],
        Field(min_length=1, json_schema_extra=_any_items),
        at_most(MOST_DOCUMENTS),
    ]
    adapter: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=100_000, strict=True)] | None = None

    @property
    def unit(self) -> OffsetUnit:
        """Return what the offsets of spans count."""
        return OffsetUnit.CODEPOINT

    def ruler_of(self, fields: Any) -> Ruler:
        """Return what converts the offsets of the answer to a document of these *fields*."""
        return CODEPOINTS

    def ids(self) -> list[str]:
        """Return each document's id, or its place as text; raises `BadInput` if two are equal."""
        places: dict[str, int] = {}
        for i, document in enumerate(self.documents):
            id_ = document.id or str(i)
            if id_ in places:
                other = f"documents[{places[id_]}]"
                same = f"is also that of {other}" if document.id else _taken(i, other)
                raise BadInput(f"documents[{i}].id", same)
            places[id_] = i
        return list(places)


class SpanBatch(Batch[D]):
    """A batch for a task that finds parts of texts. offset_unit: what start and end count."""

    offset_unit: OffsetUnit = OffsetUnit.CODEPOINT

    @property
    def unit(self) -> OffsetUnit:
        return self.offset_unit

    def ruler_of(self, fields: Any) -> Ruler:
        return Ruler.of(fields.text, self.offset_unit)


def _taken(place: int, other: str) -> str:
    return f"is missing, and its place, {place}, is the id of {other}"


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


class DocumentError(BaseModel):
    """Says why one document has no answer. code, param: as in the errors of whole requests."""

    message: str
    code: str
    param: str | None


NO_ANSWER: Answer[Any] = Answer(None, Reading.OFF_SCHEMA)


class Read(BaseModel):
    """
    The answer to one document.

    reading: whether the answer could be read; if not, its value is null, never a guess. It is null
    if there is an error.   error: why this document has no answer.
    confidence: the probability that the answer is right, if it is one label; each entity or
    relation of a list has its own. It is the model's probability among the answers that are
    allowed, corrected if the adapter's manifest has a calibration.
    """

    id: str
    reading: Reading | None
    confidence: float | None = None
    warnings: list[str] = []
    error: DocumentError | None = None

    @classmethod
    def of(cls, id_: str, answer: Answer[Any], ruler: Ruler = CODEPOINTS) -> Self:
        """Convert a document's answer; *ruler* converts its offsets."""
        return cls(
            id=id_,
            reading=answer.reading,
            confidence=answer.confidence,
            warnings=list(answer.warnings),
            **cls.fields_of(answer, ruler),
        )

    @classmethod
    def failed(cls, id_: str, error: DocumentError) -> Self:
        """Make the reply to a document without an answer."""
        return cls(id=id_, reading=None, error=error, **cls.fields_of(NO_ANSWER, CODEPOINTS))

    @classmethod
    def fields_of(cls, answer: Answer[Any], ruler: Ruler) -> dict[str, Any]:
        """Return the fields of the task's own."""
        raise NotImplementedError


class Argument(BaseModel):
    """Holds ``text[start:end]`` of the document, in code points or the unit that was asked for."""

    start: int
    end: int
    text: str
    type: str | None = None

    @classmethod
    def of(cls, span: Span, ruler: Ruler) -> Self:
        start, end = ruler.to_unit(span.start), ruler.to_unit(span.end)
        return cls(start=start, end=end, text=span.text, type=span.type)


class Entity(Argument):
    """An entity. confidence: the probability that it is right."""

    confidence: float | None = None

    @classmethod
    def of(cls, span: Span, ruler: Ruler) -> Self:
        fields = Argument.of(span, ruler).model_dump()
        return cls(**fields, confidence=span.confidence)


class Related(BaseModel):
    type: str
    head: Argument
    tail: Argument
    confidence: float | None = None

    @classmethod
    def of(cls, relation: Relation, ruler: Ruler) -> Self:
        head, tail = Argument.of(relation.head, ruler), Argument.of(relation.tail, ruler)
        return cls(type=relation.type, head=head, tail=tail, confidence=relation.confidence)


class NerRead(Read):
    entities: list[Entity] | None

    @classmethod
    def fields_of(cls, answer: Answer[tuple[Span, ...]], ruler: Ruler) -> dict[str, Any]:
        if answer.value is None:
            return {"entities": None}
        return {"entities": [Entity.of(span, ruler) for span in answer.value]}


class ReRead(Read):
    relations: list[Related] | None

    @classmethod
    def fields_of(cls, answer: Answer[tuple[Relation, ...]], ruler: Ruler) -> dict[str, Any]:
        if answer.value is None:
            return {"relations": None}
        return {"relations": [Related.of(found, ruler) for found in answer.value]}


class QaRead(Read):
    """The answer to a question. answer: the option's letter if options were given."""

    answer: str | None

    @classmethod
    def fields_of(cls, answer: Answer[str], ruler: Ruler) -> dict[str, Any]:
        return {"answer": answer.value}


class NliRead(Read):
    label: str | None

    @classmethod
    def fields_of(cls, answer: Answer[str], ruler: Ruler) -> dict[str, Any]:
        return {"label": answer.value}


class SummarizeRead(Read):
    summary: str | None

    @classmethod
    def fields_of(cls, answer: Answer[str], ruler: Ruler) -> dict[str, Any]:
        return {"summary": answer.value}


R = TypeVar("R", bound=Read)


class Reply(BaseModel, Generic[R]):
    """Answers in the order of the documents. model: the backbone's name."""

    adapter: AnsweredBy
    model: str
    documents: list[R]
    usage: Usage
