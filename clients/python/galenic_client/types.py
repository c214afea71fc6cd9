"""
What goes to the server and what comes back.
"""

from datetime import datetime
from typing import Any, Generic, Literal, NotRequired, TypeVar

from pydantic import BaseModel
from typing_extensions import TypedDict

Reading = Literal["clean", "truncated", "off_schema"]
Role = Literal["admin", "tenant-admin", "caller"]


class Place(TypedDict):
    """Code points start to end (exclusive)."""

    start: int
    end: int


class TextDocument(TypedDict):
    id: NotRequired[str]
    text: str


class ReDocument(TextDocument):
    head: NotRequired[Place]
    tail: NotRequired[Place]


class QaDocument(TypedDict):
    id: NotRequired[str]
    question: str
    context: NotRequired[str]
    options: NotRequired[dict[str, str]]


class NliDocument(TypedDict):
    id: NotRequired[str]
    premise: str
    hypothesis: str


class Message(TypedDict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str


class Used(BaseModel):
    """The adapter that answered."""

    name: str
    version: int
    digest: str


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Answered(BaseModel):
    """*reading* says whether the model's answer could be read; if not, the answer is None."""

    id: str
    reading: Reading
    confidence: float | None
    warnings: list[str]


class Span(BaseModel):
    """``text[start:end]`` of the document, in code points."""

    start: int
    end: int
    text: str
    type: str | None = None


class Entity(Span):
    confidence: float | None


class Relation(BaseModel):
    type: str
    head: Span
    tail: Span
    confidence: float | None


class NerAnswer(Answered):
    entities: list[Entity] | None


class ReAnswer(Answered):
    relations: list[Relation] | None


class QaAnswer(Answered):
    answer: str | None


class NliAnswer(Answered):
    label: str | None


class SummarizeAnswer(Answered):
    summary: str | None


A = TypeVar("A", bound=Answered)


class Reply(BaseModel, Generic[A]):
    """Answers in the order of the documents asked."""

    adapter: Used
    model: str
    documents: list[A]
    usage: Usage


class ChatReply(BaseModel):
    id: str
    model: str
    adapter: Used | None
    text: str
    finish_reason: str
    usage: Usage


class Model(BaseModel):
    id: str
    owned_by: str
    adapter: dict[str, Any] | None


class Adapter(BaseModel):
    tenant: str
    name: str
    version: int
    digest: str
    num_bytes: int
    created: datetime
    manifest: dict[str, Any]


class AdapterPage(BaseModel):
    adapters: list[Adapter]
    next: str | None


class Alias(BaseModel):
    tenant: str
    alias: str
    adapter: str


class Key(BaseModel):
    id: str
    tenant: str
    role: Role
    created: datetime
    expires: datetime | None
    revoked: datetime | None


class NewKey(Key):
    """*key* is shown this once."""

    key: str
