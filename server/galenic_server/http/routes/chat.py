"""
Routes of the OpenAI API. A model is an adapter or the bare backbone; replies may be streamed.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import structlog
from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from galenic_server import logs
from galenic_server.answering.service import Origin, Talk
from galenic_server.http import faults
from galenic_server.http.auth import KeyedRoute, OriginDep, bearer
from galenic_server.http.deadline import Deadline
from galenic_server.http.deps import Parts, PartsDep, while_there
from galenic_server.schemas.openai import ChatBody, CompletionBody, OpenAIBody
from galenic_server.schemas.responses import ResponsesBody

router = APIRouter(
    prefix="/v1", tags=["openai"], route_class=KeyedRoute, dependencies=[Depends(bearer)]
)
log = structlog.get_logger(__name__)

DONE = "data: [DONE]\n\n"
REPLIES: dict[str, Any] = {
    "response_model": None,
    "responses": {200: {"model": dict[str, Any], "content": {"text/event-stream": {}}}},
}


class EventStream(StreamingResponse):
    """Closes its events when the client disconnects, so that the engine stops working for it."""

    media_type = "text/event-stream"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.body_iterator):  # type: ignore[type-var]
            await super().__call__(scope, receive, send)


@router.post("/chat/completions", **REPLIES)
async def chat_completions(
    body: ChatBody, request: Request, origin: OriginDep, parts: PartsDep
) -> Response:
    """
    Answer OpenAI's chat by vLLM. With an adapter as the model, its prompt comes first.

    A single user message to an adapter, without tools or a format, asks the adapter's task: it gets
    the task's template and constraint, and `metadata` holds the structured answer. A streamed reply
    that fails midway ends with an event that holds the error.
    """
    return await _answer(request, origin, parts, body)


@router.post("/completions", **REPLIES)
async def completions(
    body: CompletionBody, request: Request, origin: OriginDep, parts: PartsDep
) -> Response:
    """Answer OpenAI's completions: the answer continues the prompt."""
    return await _answer(request, origin, parts, body)


@router.post("/responses", **REPLIES)
async def responses(
    body: ResponsesBody, request: Request, origin: OriginDep, parts: PartsDep
) -> Response:
    """Answer OpenAI's Responses; none is stored."""
    return await _answer(request, origin, parts, body)


async def _answer(request: Request, origin: Origin, parts: Parts, body: OpenAIBody) -> Response:
    request.state.task = "chat"
    talk = await while_there(request, parts.service.talk(origin, body))
    headers = _headers(talk, body)
    if isinstance(talk.reply, dict):
        _count(parts, origin, talk)
        return JSONResponse(talk.reply | talk.extensions(), headers=headers)
    events = _events(parts, origin, talk, talk.reply, request.state.deadline)
    return EventStream(events, headers=headers | {"cache-control": "no-cache"})


def _headers(talk: Talk, body: OpenAIBody) -> dict[str, str]:
    headers = {"x-galenic-ignored": body.ignored} if body.ignored else {}
    if talk.adapter is None:
        return headers
    named = {"x-galenic-adapter": str(talk.adapter.ref)}
    return headers | named | {"x-galenic-digest": talk.adapter.digest}


def _count(parts: Parts, origin: Origin, talk: Talk) -> None:
    call = talk.call
    counts = (call.num_prompt_tokens, call.num_tokens, call.num_cached_tokens)
    parts.metrics.count_tokens(origin.tenant, *counts)


async def _events(
    parts: Parts, origin: Origin, talk: Talk, reply: AsyncGenerator[str], deadline: Deadline
) -> AsyncGenerator[str]:
    is_untold = talk.clinical is not None
    try:
        async with aclosing(reply):
            async for event in deadline.kept_by(reply):
                if is_untold and talk.call.finish is not None and _is_last(event):
                    is_untold = False
                    yield _event(_data(event) | talk.extensions())
                else:
                    yield event
    except Exception as error:  # noqa: BLE001 the status is sent, so the stream carries the error
        log.warning("stream failed", **logs.where(error))
        yield _event(faults.body_of(error))
        yield DONE
    finally:
        _count(parts, origin, talk)


def _is_last(event: str) -> bool:
    """Tell whether *event* ends the answer: only its usage and the end of the stream follow."""
    if not event.startswith("data: {"):
        return False
    return any(choice.get("finish_reason") for choice in _data(event).get("choices", ()))


def _data(event: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(event.removeprefix("data: "))
    return data


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"
