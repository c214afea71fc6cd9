"""
The OpenAI API: chat with an adapter, or with the bare backbone, as the model; whole or streamed.
"""

import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import structlog
from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from galenic_adapters.errors import GalenicError
from galenic_adapters.manifest import BackboneId
from galenic_adapters.store import Resolved
from galenic_server import faults
from galenic_server.chat import ChatBody
from galenic_server.deps import KeyedRoute, OriginDep, PartsDep, bearer, while_there
from galenic_server.engine.base import Delta
from galenic_server.schemas import Used
from galenic_server.service import Talk

router = APIRouter(
    prefix="/v1", tags=["openai"], route_class=KeyedRoute, dependencies=[Depends(bearer)]
)
log = structlog.get_logger(__name__)

DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Reply:
    """A chat's reply as it grows, in the words of OpenAI's clients."""

    id: str
    backbone: BackboneId
    adapter: Resolved | None
    text: str = ""
    num_tokens: int = 0
    last: Delta | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    def add(self, delta: Delta) -> None:
        self.text += delta.text
        self.num_tokens += delta.num_tokens
        self.last = delta

    @property
    def num_prompt_tokens(self) -> int:
        return self.last.num_prompt_tokens if self.last else 0

    @property
    def num_cached_tokens(self) -> int:
        return self.last.num_cached_tokens if self.last else 0

    @property
    def headers(self) -> dict[str, str]:
        if self.adapter is None:
            return {}
        named = {"x-galenic-adapter": str(self.adapter.ref)}
        return named | {"x-galenic-digest": self.adapter.digest}

    def whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": self.text, "refusal": None}
        finish = self.last.finish if self.last else None
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return self._head("chat.completion") | {"choices": [choice], "usage": self._usage()}

    def chunk(self, delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event(self._head("chat.completion.chunk") | {"choices": [choice]})

    def usage_chunk(self) -> bytes:
        return _event(self._head("chat.completion.chunk") | {"choices": [], "usage": self._usage()})

    def _head(self, object_: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": object_,
            "created": self.created,
            "model": str(self.adapter.ref) if self.adapter else self.backbone.name,
            "system_fingerprint": str(self.backbone),
            "adapter": Used.of(self.adapter).model_dump() if self.adapter else None,
        }

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_tokens,
            "total_tokens": self.num_prompt_tokens + self.num_tokens,
            "prompt_tokens_details": {"cached_tokens": self.num_cached_tokens},
        }


class EventStream(StreamingResponse):
    """Closes its events when the client leaves, so that the engine stops working for it."""

    media_type = "text/event-stream"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.body_iterator):  # type: ignore[type-var]
            await super().__call__(scope, receive, send)


@router.post("/chat/completions", response_model=None, responses={200: {"model": dict[str, Any]}})
async def chat_completions(
    body: ChatBody, request: Request, origin: OriginDep, parts: PartsDep
) -> Response:
    """
    OpenAI's chat. With an adapter as the model, its prompt stands before the conversation.

    A streamed reply that fails midway ends with an event that holds the error.
    """
    request.state.task = "chat"
    sampling = body.sampling(body.wanted_tokens or 0)
    talk = await parts.service.chat(origin, body.model, body.turns(), sampling, body.constraint())
    reply = Reply(f"chatcmpl-{origin.request_id}", parts.service.backbone, talk.adapter)
    counted = _counted(talk, reply, parts.metrics.count_tokens, origin.tenant)
    if body.stream:
        # Before the status is sent, so that what the engine refuses is an error and no stream.
        first = await anext(counted)
        events = _events(first, counted, reply, body)
        return EventStream(events, headers=reply.headers | {"cache-control": "no-cache"})
    await while_there(request, _all(counted))
    return JSONResponse(reply.whole(), headers=reply.headers)


async def _counted(talk: Talk, reply: Reply, count: Any, tenant: str) -> AsyncIterator[Delta]:
    """The deltas, added to the reply, and the tokens counted however it ends."""
    try:
        async with aclosing(talk.deltas) as deltas:  # type: ignore[type-var]
            async for delta in deltas:
                reply.add(delta)
                yield delta
    finally:
        count(tenant, reply.num_prompt_tokens, reply.num_tokens, reply.num_cached_tokens)


async def _all(deltas: AsyncIterator[Delta]) -> None:
    async for _ in deltas:
        pass


async def _events(
    first: Delta, rest: AsyncIterator[Delta], reply: Reply, body: ChatBody
) -> AsyncIterator[bytes]:
    async with aclosing(rest):  # type: ignore[type-var]
        yield reply.chunk({"role": "assistant", "content": ""})
        try:
            yield _chunk_of(first, reply)
            async for delta in rest:
                yield _chunk_of(delta, reply)
            if body.wants_stream_usage:
                yield reply.usage_chunk()
        except GalenicError as error:
            log.warning("stream failed", error=type(error).__name__)
            yield _event(faults.body_of(error))
        yield DONE


def _chunk_of(delta: Delta, reply: Reply) -> bytes:
    return reply.chunk({"content": delta.text} if delta.text else {}, delta.finish)


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"
