"""
Serves the OpenAI API by vLLM's own handlers, over our engine.

vLLM looks up a request's model among its LoRA adapters and passes what it finds to the engine. Here
it finds the request's `Call`, which names the tenant and the adapter.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from pydantic import BaseModel, ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses
from vllm.renderers.online_renderer import OnlineRenderer

from galenic_adapters.errors import BadInput, Unavailable, Unsupported
from galenic_server.engine.contract import Api, Call, OpenAIReply
from galenic_server.engine.vllm.compat import (
    ErrorResponse,
    RequestRefused,
    with_sse_keep_alive,
)
from galenic_server.engine.vllm.openai_client import PromptingClient
from galenic_server.engine.vllm.openai_silence import silence

KEEP_ALIVE_SECONDS = 15.0

Create = Callable[[Any], Awaitable[Any]]


class Calls:
    """Holds the calls in progress by id, where vLLM's handlers look up LoRA adapters."""

    base_model_paths = ()

    def __init__(self) -> None:
        self.lora_requests: dict[str, Call] = {}

    def is_base_model(self, name: str) -> bool:
        return False

    def model_name(self, lora_request: Call) -> str:
        return lora_request.model

    @contextmanager
    def holding(self, call: Call) -> Iterator[None]:
        self.lora_requests[call.id] = call
        try:
            yield
        finally:
            del self.lora_requests[call.id]


class Surface:
    """Implements `OpenAI` over one core of vLLM; every core has its own."""

    def __init__(self, client: PromptingClient, *, tool_parser: str) -> None:
        self._calls = Calls()
        is_harmony = client.model_config.hf_config.model_type == "gpt_oss"
        parsers = {
            "enable_auto_tools": True,
            "tool_parser": "openai" if is_harmony else tool_parser,
            "reasoning_parser": "openai_gptoss" if is_harmony else "",
        }
        renderer = OnlineRenderer(client.model_config, client.renderer, **_TEMPLATE, **parsers)
        given = {"engine_client": client, "models": self._calls, "online_renderer": renderer}
        options = {"request_logger": None, "enable_prompt_tokens_details": True}
        chat = OpenAIServingChat(
            response_role="assistant", **given, **options, **_TEMPLATE_OF_CHAT, **parsers
        )
        completions = OpenAIServingCompletion(**given, **options)
        responses = OpenAIServingResponses(**given, **options, **_TEMPLATE_OF_CHAT, **parsers)
        self._plain = _plain_chat(client, self._calls, options).create_chat_completion
        self._apis: dict[Api, tuple[type[BaseModel], Create]] = {
            Api.CHAT: (ChatCompletionRequest, chat.create_chat_completion),
            Api.COMPLETIONS: (CompletionRequest, completions.create_completion),
            Api.RESPONSES: (ResponsesRequest, responses.create_responses),
        }

    async def answer(self, api: Api, call: Call) -> OpenAIReply:
        kind, create = self._apis[api]
        if call.is_task:
            create = self._plain
        with self._calls.holding(call), _our_errors(call):
            reply = await create(kind(**_asked(call), model=call.id, request_id=call.id))
        if isinstance(reply, ErrorResponse):
            raise _refusal(reply)
        if isinstance(reply, BaseModel):
            whole = reply.model_dump(mode="json", by_alias=True)
            return silence(whole, call.body) if call.body.get("stream") else whole
        events = _events(reply, call)
        heard = [await anext(events)]
        while not call.num_tokens and call.finish is None:
            heard.append(await anext(events))  # that a response was begun is not yet an answer
        return with_sse_keep_alive(_joined(heard, events), KEEP_ALIVE_SECONDS)


_TEMPLATE_OF_CHAT = {"chat_template": None, "chat_template_content_format": "auto"}
_TEMPLATE = _TEMPLATE_OF_CHAT | {"request_logger": None}


def _plain_chat(
    client: PromptingClient, calls: Calls, options: dict[str, Any]
) -> OpenAIServingChat:
    """Make the handler for tasks: it renders as in training for any backbone, parsing nothing."""
    renderer = OnlineRenderer(client.model_config, client.renderer, **_TEMPLATE)
    renderer.use_harmony, renderer.parser = False, None
    chat = OpenAIServingChat(
        client, calls, "assistant", online_renderer=renderer, **options, **_TEMPLATE_OF_CHAT
    )
    chat.parser_cls = None
    return chat


def _asked(call: Call) -> dict[str, Any]:
    """Ask for a silent call's answer whole: vLLM streams nothing of an answer without tokens."""
    whole = {"stream": False, "stream_options": None} if call.is_silent else {}
    return {**call.body, **whole}


async def _events(reply: AsyncIterator[Any], call: Call) -> AsyncGenerator[str]:
    """Yield vLLM's events as text; an error event is raised as the error itself."""
    async with aclosing(reply):  # type: ignore[type-var]  # vLLM's are generators
        async for event in reply:
            text = event if isinstance(event, str) else _event_of(event)
            if text.startswith('data: {"error"'):
                raise call.failure or RuntimeError("vLLM failed in mid-stream")
            yield text


def _event_of(event: Any) -> str:
    return f"event: {event.type}\ndata: {event.model_dump_json(by_alias=True)}\n\n"


async def _joined(heard: list[str], rest: AsyncGenerator[str]) -> AsyncGenerator[str]:
    async with aclosing(rest):
        for event in heard:
            yield event
        async for event in rest:
            yield event


@contextmanager
def _our_errors(call: Call) -> Iterator[None]:
    """Translate vLLM's errors, keeping only the field's name: messages may quote the request."""
    try:
        yield
    except ValidationError as error:
        where = error.errors(include_input=False, include_url=False, include_context=False)[0]
        raise BadInput(_path(where["loc"]), "is not valid") from None
    except RequestRefused as error:
        raise _refused(getattr(error, "parameter", None)) from None
    except (ValueError, TypeError, NotImplementedError):
        raise _refused(None) from None


def _refusal(reply: ErrorResponse) -> BaseException:
    if reply.error.message == "Client disconnected":
        return asyncio.CancelledError()
    if reply.error.code >= 500:
        return Unavailable("the engine failed on this request")
    return _refused(reply.error.param)


def _refused(parameter: str | None) -> BadInput:
    return Unsupported(parameter or "request", "is not taken by the engine")


def _path(where: tuple[str | int, ...]) -> str:
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in where]
    return "".join(steps).lstrip(".") or "request"
