"""
Every call as data: what is sent, and how the answer is read. Both clients send these.
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
    """is_repeatable: whether sending it twice does no more than sending it once."""

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
        return [Model.model_validate(one) for one in response.json()["data"]]

    return Call("GET", "/v1/models", read)


def ready() -> Call[None]:
    return Call("GET", "/health/ready", nothing)


def text_of(line: str) -> str | None:
    """The text that a line of a stream brings; none for all other lines."""
    if not line.startswith("data: ") or line == "data: [DONE]":
        return None
    event = json.loads(line.removeprefix("data: "))
    if "error" in event:
        raise StreamBroken(event["error"].get("message") or "no reason given")
    choices = event["choices"]
    return choices[0]["delta"].get("content") if choices else None


class StreamBroken(Exception):
    """The server could not finish the stream, and said why."""


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
    return [{"text": one} if isinstance(one, str) else one for one in documents]


def safe(name: str) -> str:
    return quote(name, safe="")


def as_(model: type[M]) -> Callable[[httpx.Response], M]:
    return lambda response: model.model_validate_json(response.content)


def as_list(model: type[M]) -> Callable[[httpx.Response], list[M]]:
    return lambda response: TypeAdapter(list[model]).validate_json(response.content)  # type: ignore[valid-type]


def nothing(response: httpx.Response) -> None:
    return None


def _chat_reply(response: httpx.Response) -> ChatReply:
    told = response.json()
    choices = [_choice(one) for one in told["choices"]]
    first = {name: choices[0][name] for name in ("text", "finish_reason", "tool_calls")}
    return ChatReply.model_validate(told | first | {"choices": choices})


def _choice(told: Mapping[str, Any]) -> dict[str, Any]:
    """A choice of OpenAI's without its message around what was said."""
    message = told["message"]
    said = {"text": message.get("content"), "tool_calls": message.get("tool_calls") or []}
    return {**told, **said}
