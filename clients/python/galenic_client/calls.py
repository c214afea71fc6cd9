"""
Defines every call as data, for both clients: the request, and how its response is read.
"""

import json
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter

from galenic_client.types import (
    ChatReply,
    Message,
    Model,
    NerAnswer,
    NliAnswer,
    NliDocument,
    QaAnswer,
    QaDocument,
    ReAnswer,
    ReDocument,
    Reply,
    SummarizeAnswer,
    TextDocument,
)

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """Describes a call. is_repeatable: sending it twice has the same effect as once."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    json: Mapping[str, Any] | None = None
    content: bytes | Iterable[bytes] | AsyncIterable[bytes] | None = None
    params: Mapping[str, str | int | None] = field(default_factory=dict)
    headers: Mapping[str, str | None] = field(default_factory=dict)
    is_repeatable: bool = True

    def request(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        params = {name: value for name, value in self.params.items() if value is not None}
        headers = {name: value for name, value in self.headers.items() if value is not None}
        if self.content is not None:
            headers["content-type"] = "application/octet-stream"
        return client.build_request(
            self.method,
            self.path,
            json=self.json,
            content=self.content,
            params=params,
            headers=headers,
        )


def ner(
    documents: Sequence[str | TextDocument], adapter: str | None, max_tokens: int | None
) -> Call[Reply[NerAnswer]]:
    return _task("ner", _texts(documents), adapter, max_tokens, Reply[NerAnswer])


def re(
    documents: Sequence[str | ReDocument], adapter: str | None, max_tokens: int | None
) -> Call[Reply[ReAnswer]]:
    return _task("re", _texts(documents), adapter, max_tokens, Reply[ReAnswer])


def qa(
    documents: Sequence[QaDocument], adapter: str | None, max_tokens: int | None
) -> Call[Reply[QaAnswer]]:
    return _task("qa", documents, adapter, max_tokens, Reply[QaAnswer])


def nli(
    documents: Sequence[NliDocument], adapter: str | None, max_tokens: int | None
) -> Call[Reply[NliAnswer]]:
    return _task("nli", documents, adapter, max_tokens, Reply[NliAnswer])


def summarize(
    documents: Sequence[str | TextDocument], adapter: str | None, max_tokens: int | None
) -> Call[Reply[SummarizeAnswer]]:
    return _task("summarize", _texts(documents), adapter, max_tokens, Reply[SummarizeAnswer])


def chat(model: str, messages: Sequence[Message], options: Mapping[str, Any]) -> Call[ChatReply]:
    body = {"model": model, "messages": list(messages), **options}
    return Call("POST", "/v1/chat/completions", _chat_reply, json=body)


def models() -> Call[list[Model]]:
    def read(response: httpx.Response) -> list[Model]:
        return [Model.model_validate(row) for row in response.json()["data"]]

    return Call("GET", "/v1/models", read)


def ready() -> Call[None]:
    return Call("GET", "/health/ready", nothing)


def text_of(line: str) -> str | None:
    """Return the text in a line of a stream, if any; raises `StreamBroken` for an error event."""
    if not line.startswith("data: ") or line == "data: [DONE]":
        return None
    event = json.loads(line.removeprefix("data: "))
    if "error" in event:
        raise StreamBroken(event["error"].get("message") or "no reason given")
    choices = event["choices"]
    return choices[0]["delta"].get("content") if choices else None


class StreamBroken(Exception):
    """Says that the server could not finish the stream, and why."""


def _task(
    task: str,
    documents: Sequence[Any],
    adapter: str | None,
    max_tokens: int | None,
    reply: type[M],
) -> Call[M]:
    given = {"adapter": adapter, "max_tokens": max_tokens}
    chosen = {name: value for name, value in given.items() if value is not None}
    body = {"documents": list(documents), **chosen}
    return Call("POST", f"/v1/{task}", as_(reply), json=body)


def _texts(documents: Sequence[Any]) -> list[Any]:
    assert not isinstance(documents, str), "a sequence of documents, not one text"
    return [{"text": doc} if isinstance(doc, str) else doc for doc in documents]


def safe(name: str) -> str:
    return quote(name, safe="")


def as_(model: type[M]) -> Callable[[httpx.Response], M]:
    return lambda response: model.model_validate_json(response.content)


def as_list(model: type[M]) -> Callable[[httpx.Response], list[M]]:
    return lambda response: TypeAdapter(list[model]).validate_json(response.content)  # type: ignore[valid-type]


def nothing(response: httpx.Response) -> None:
    return None


def _chat_reply(response: httpx.Response) -> ChatReply:
    reply = response.json()
    choices = [_choice(choice) for choice in reply["choices"]]
    first = {name: choices[0][name] for name in ("text", "finish_reason", "tool_calls")}
    return ChatReply.model_validate(reply | first | {"choices": choices})


def _choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a choice of OpenAI's: its message's text and tool calls become its own fields."""
    message = choice["message"]
    content = {"text": message.get("content"), "tool_calls": message.get("tool_calls") or []}
    return {**choice, **content}
