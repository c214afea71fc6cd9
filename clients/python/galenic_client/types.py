"""
What goes to the server and what comes back.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, Literal, NotRequired, TypeVar

from pydantic import BaseModel
from typing_extensions import TypedDict

Reading = Literal["clean", "truncated", "off_schema"]
Role = Literal["admin", "tenant-admin", "caller"]


class Offsets(TypedDict):
    """Code points start to end (exclusive)."""

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
    """*tool_calls* of an assistant's turn are sent back as they came; a tool's answer names one."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]


class AnsweredBy(BaseModel):
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

    adapter: AnsweredBy
    model: str
    documents: list[A]
    usage: Usage


class ToolFunction(BaseModel):
    """*arguments* is JSON as the model wrote it."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    id: str
    type: str = "function"
    function: ToolFunction


class Choice(BaseModel):
    """One answer. *text* is None where the model called tools instead; *logprobs* are OpenAI's."""

    index: int = 0
    text: str | None
    finish_reason: str | None
    tool_calls: list[ToolCall] = []
    logprobs: dict[str, Any] | None = None


class ChatReply(BaseModel):
    """
    The reply's *choices*; text, finish_reason and tool_calls are those of the first.

    metadata: of a question to an adapter's task, the structured answer, as JSON.
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
    """What the server has verified, and whose signature it was."""

    policy: Literal["none", "optional", "required"]
    is_verified: bool
    signed_by: str | None


class Adapter(BaseModel):
    """*state* is ready once every replica of the server knows it."""

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
    """*path* is a JSON path into the package, or what was sent beside it."""

    path: str
    problem: str


class TriedOut(BaseModel):
    accepted: bool
    digest: str
    faults: list[Fault]


@dataclass(frozen=True, slots=True)
class ToPush:
    """One package of many; without a *version*, the next one of its name."""

    name: str
    package: bytes | Path
    version: int | None = None
    signature: bytes | Path | None = None


class Pushed(BaseModel):
    """
    What became of the package on that *line*, from 1: *new*; *there*, as its name has these bytes
    already; or *failed*, with the *error* that a push of it alone would raise.
    """

    line: int
    state: Literal["new", "there", "failed"]
    name: str | None = None
    version: int | None = None
    digest: str | None = None
    error: dict[str, Any] | None = None


class Upload(BaseModel):
    """*id* is the Idempotency-Key; *adapter* the version that it made."""

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
    """*converged*: every replica answers by this; else those in *waiting_for* may not yet."""

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
    """*key* is shown this once."""

    key: str


class Tenant(BaseModel):
    """What is its own of quotas, and what it keeps."""

    tenant: str
    created: datetime
    suspended: datetime | None
    max_adapters: int | None
    max_bytes: int | None
    num_adapters: int
    num_bytes: int


class Limits(BaseModel):
    """
    What a tenant may use; None is no bound.

    concurrent: requests open at once.   weight: its share of the engine beside another's.
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
