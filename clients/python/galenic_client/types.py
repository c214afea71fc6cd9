"""
The types of requests and responses.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, Literal, NotRequired, TypeVar

from pydantic import BaseModel
from typing_extensions import TypedDict

Reading = Literal["clean", "truncated", "off_schema"]
Role = Literal["admin", "tenant-admin", "caller", "auditor", "metrics"]


class Offsets(TypedDict):
    """Delimits a part of a text, in code points, end-exclusive."""

    start: int
    end: int


class TextDocument(TypedDict):
    id: NotRequired[str]
    text: str


class ReDocument(TextDocument):
    head: NotRequired[Offsets]
    tail: NotRequired[Offsets]


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
    """
    Holds one turn of a chat.

    tool_calls: of an assistant's turn, sent back as received.   tool_call_id: in a tool's turn, the
    call that it answers.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]


class AnsweredBy(BaseModel):
    """Names the adapter that answered."""

    name: str
    version: int
    digest: str


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class DocumentError(BaseModel):
    """Says why one document has no answer."""

    message: str
    code: str
    param: str | None


class Answered(BaseModel):
    """
    Holds an answer, or the *error* of a document that has none.

    reading: whether it could be read; if not, its value is None.
    """

    id: str
    reading: Reading | None
    confidence: float | None
    warnings: list[str]
    error: DocumentError | None = None


class Span(BaseModel):
    """Holds ``text[start:end]`` of the document, in code points."""

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
    """Holds the answers in the order of the documents."""

    adapter: AnsweredBy
    model: str
    documents: list[A]
    usage: Usage


class ToolFunction(BaseModel):
    """Names a function to call. arguments: JSON as the model wrote it."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    id: str
    type: str = "function"
    function: ToolFunction


class Choice(BaseModel):
    """Holds one answer. text: None if the model called tools.   logprobs: in OpenAI's format."""

    index: int = 0
    text: str | None
    finish_reason: str | None
    tool_calls: list[ToolCall] = []
    logprobs: dict[str, Any] | None = None


class ChatReply(BaseModel):
    """
    Holds a reply; text, finish_reason and tool_calls are those of its first choice.

    metadata: the structured answer as JSON, if an adapter's task was asked.
    """

    id: str
    model: str
    adapter: AnsweredBy | None = None
    choices: list[Choice]
    text: str | None
    finish_reason: str | None
    tool_calls: list[ToolCall]
    usage: Usage | None
    metadata: dict[str, str] | None = None


class Model(BaseModel):
    id: str
    owned_by: str
    adapter: dict[str, Any] | None


class Signature(BaseModel):
    """Says whether the server verified a signature, and whose it is."""

    policy: Literal["none", "optional", "required"]
    is_verified: bool
    signed_by: str | None


class Adapter(BaseModel):
    """Describes a version. state: ready once every replica of the server knows it."""

    tenant: str
    name: str
    version: int
    digest: str
    state: Literal["checked", "ready"]
    num_bytes: int
    created: datetime
    deleted: datetime | None
    signature: Signature
    manifest: dict[str, Any]


class AdapterPage(BaseModel):
    adapters: list[Adapter]
    next: str | None


class Fault(BaseModel):
    """Describes a fault. path: a JSON path into the package, or the name of a part beside it."""

    path: str
    problem: str


class TriedOut(BaseModel):
    accepted: bool
    digest: str
    faults: list[Fault]


@dataclass(frozen=True, slots=True)
class ToPush:
    """Holds one package of many; without a *version*, it becomes the next one of its name."""

    name: str
    package: bytes | Path
    version: int | None = None
    signature: bytes | Path | None = None


class Pushed(BaseModel):
    """
    Holds the outcome of the package on that *line*, counted from 1.

    state: *new*; *there*, if its name has these bytes already; or *failed*, with the *error* that a
    push of it alone would raise.
    """

    line: int
    state: Literal["new", "there", "failed"]
    name: str | None = None
    version: int | None = None
    digest: str | None = None
    error: dict[str, Any] | None = None


class Upload(BaseModel):
    """Describes an upload. id: its Idempotency-Key.   adapter: the version that it made."""

    id: str
    name: str
    digest: str
    state: Literal["received", "checked", "ready", "failed"]
    created: datetime
    adapter: str | None
    faults: list[Fault]


class Canary(BaseModel):
    adapter: str
    weight: int


class Alias(BaseModel):
    """
    Describes an alias.

    converged: every replica answers by it; until then, those in waiting_for may not.
    """

    tenant: str
    alias: str
    adapter: str
    canary: Canary | None
    previous: str | None
    changed: datetime
    etag: str
    converged: bool
    waiting_for: list[str]


class Share(BaseModel):
    owner: str
    name: str
    tenants: list[str]
    with_everyone: bool


class Key(BaseModel):
    id: str
    tenant: str
    role: Role
    created: datetime
    expires: datetime | None
    revoked: datetime | None
    label: str
    replaced_by: str | None


class NewKey(Key):
    """Describes a new key. key: the secret, shown only once."""

    key: str


class Tenant(BaseModel):
    """Describes a tenant: its own quotas (None: the server's) and its usage."""

    tenant: str
    created: datetime
    suspended: datetime | None
    max_adapters: int | None
    max_bytes: int | None
    num_adapters: int
    num_bytes: int


class Limits(BaseModel):
    """
    Limits what a tenant may use; None is no bound.

    concurrent: requests open at once.   weight: its share of the engine relative to other tenants.
    """

    tenant: str
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent: int | None
    weight: float


class KeyPage(BaseModel):
    keys: list[Key]
    next: str | None


class TenantPage(BaseModel):
    tenants: list[Tenant]
    next: str | None


class Brought(BaseModel):
    num_adapters: int
    num_deleted: int
    num_aliases: int
    num_shares: int


class Replica(BaseModel):
    id: str
    place: str
    started: datetime
    heard: datetime
    seen: int
