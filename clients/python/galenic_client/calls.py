"""
Every call as data: what is sent, and how the answer is read. Both clients send these.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter

from galenic_client.types import (
    Adapter,
    AdapterPage,
    Alias,
    ChatReply,
    Key,
    Message,
    Model,
    NerAnswer,
    NewKey,
    NliAnswer,
    NliDocument,
    QaAnswer,
    QaDocument,
    ReAnswer,
    ReDocument,
    Reply,
    Role,
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
    content: bytes | None = None
    params: Mapping[str, str | int | None] = field(default_factory=dict)
    is_repeatable: bool = True

    def request(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        params = {name: value for name, value in self.params.items() if value is not None}
        kind = {"content-type": "application/octet-stream"} if self.content is not None else None
        return client.build_request(
            self.method,
            self.path,
            json=self.json,
            content=self.content,
            params=params,
            headers=kind,
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
    return Call("GET", "/health/ready", _nothing)


def push(name: str, package: bytes, version: int | None, tenant: str | None) -> Call[Adapter]:
    path = f"/admin/v1/adapters/{_safe(name)}" + (f"/{version}" if version is not None else "")
    # Without a number, twice would make two versions.
    return Call(
        "PUT",
        path,
        _as(Adapter),
        content=package,
        params={"tenant": tenant},
        is_repeatable=version is not None,
    )


def adapters(tenant: str | None, after: str | None) -> Call[AdapterPage]:
    params = {"tenant": tenant, "after": after, "limit": 1000}
    return Call("GET", "/admin/v1/adapters", _as(AdapterPage), params=params)


def delete(name: str, version: int, tenant: str | None) -> Call[None]:
    path = f"/admin/v1/adapters/{_safe(name)}/{version}"
    return Call("DELETE", path, _nothing, params={"tenant": tenant}, is_repeatable=False)


def alias(name: str, adapter: str, expect: str | None, tenant: str | None) -> Call[Alias]:
    body = {"adapter": adapter} | ({"expect": expect} if expect else {})
    path, params = f"/admin/v1/aliases/{_safe(name)}", {"tenant": tenant}
    return Call("PUT", path, _as(Alias), json=body, params=params, is_repeatable=expect is None)


def aliases(tenant: str | None) -> Call[list[Alias]]:
    return Call("GET", "/admin/v1/aliases", _as_list(Alias), params={"tenant": tenant})


def drop_alias(name: str, tenant: str | None) -> Call[None]:
    path, params = f"/admin/v1/aliases/{_safe(name)}", {"tenant": tenant}
    return Call("DELETE", path, _nothing, params=params, is_repeatable=False)


def create_key(tenant: str, role: Role) -> Call[NewKey]:
    body = {"tenant": tenant, "role": role}
    return Call("POST", "/admin/v1/keys", _as(NewKey), json=body, is_repeatable=False)


def keys(tenant: str | None) -> Call[list[Key]]:
    return Call("GET", "/admin/v1/keys", _as_list(Key), params={"tenant": tenant})


def revoke_key(key_id: str) -> Call[None]:
    return Call("DELETE", f"/admin/v1/keys/{_safe(key_id)}", _nothing)


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
    return Call("POST", f"/v1/{task}", _as(reply), json=body)


def _texts(documents: Sequence[Any]) -> list[Any]:
    assert not isinstance(documents, str), "a sequence of documents, not one text"
    return [{"text": one} if isinstance(one, str) else one for one in documents]


def _safe(name: str) -> str:
    return quote(name, safe="")


def _as(model: type[M]) -> Callable[[httpx.Response], M]:
    return lambda response: model.model_validate_json(response.content)


def _as_list(model: type[M]) -> Callable[[httpx.Response], list[M]]:
    return lambda response: TypeAdapter(list[model]).validate_json(response.content)  # type: ignore[valid-type]


def _nothing(response: httpx.Response) -> None:
    return None


def _chat_reply(response: httpx.Response) -> ChatReply:
    told = response.json()
    choice = told["choices"][0]
    text, finish = choice["message"]["content"], choice["finish_reason"]
    return ChatReply.model_validate(told | {"text": text, "finish_reason": finish})
