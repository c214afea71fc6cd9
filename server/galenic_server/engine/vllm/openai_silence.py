"""
Streams an answer of no tokens: the prompt, if echoed, and the end of each choice.
"""

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

KEPT_OF_CHOICE = ("index", "logprobs", "finish_reason")


async def silence(whole: Mapping[str, Any], asked: Mapping[str, Any]) -> AsyncGenerator[str]:
    """Yield *whole*, a reply of chat or completions, as events in the form that was *asked* for."""
    head = {name: whole[name] for name in ("id", "object", "created", "model")}
    if "message" in whole["choices"][0]:
        head["object"] = "chat.completion.chunk"
    for choice in whole["choices"]:
        yield _event(head | {"choices": [_ended(choice)]})
    if (asked.get("stream_options") or {}).get("include_usage"):
        yield _event(head | {"choices": [], "usage": whole["usage"]})
    yield "data: [DONE]\n\n"


def _ended(choice: Mapping[str, Any]) -> dict[str, Any]:
    empty = (
        {"delta": {"role": "assistant", "content": ""}}
        if "message" in choice
        else {"text": choice["text"]}
    )
    return empty | {name: choice[name] for name in KEPT_OF_CHOICE}


def _event(data: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n"
