"""
Renders chats for vLLM's handlers: what callers wrote is tokenized as text, as in training.
"""

from typing import Any

from vllm.renderers.hf import HfRenderer, safe_apply_chat_template
from vllm.utils.async_utils import make_async

from galenic_adapters.backbone.encode import Sealed


class PromptedRenderer(HfRenderer):
    """A `HfRenderer` that renders chats as token ids, not as one text to be tokenized."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        self._apply_chat_template_async = make_async(encode_chat, executor=self._executor)


def encode_chat(
    model_config: Any, tokenizer: Any, conversation: list[dict[str, Any]], **template: Any
) -> list[int]:
    """Encode *conversation* under the backbone's template, applied as vLLM applies it."""
    sealed = Sealed(tokenizer)
    rendered = safe_apply_chat_template(
        model_config,
        tokenizer,
        [_seal(sealed, message) for message in conversation],
        **template | {"tools": sealed.disarm(template.get("tools")), "tokenize": False},
    )
    return sealed.encode(rendered)


def _seal(sealed: Sealed, message: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in message.items() if name != "content"}
    made: dict[str, Any] = sealed.disarm(rest)
    if "content" in message:
        made["content"] = _seal_content(sealed, message["content"])
    return made


def _seal_content(sealed: Sealed, content: Any) -> Any:
    if isinstance(content, list):
        return [
            part | {"text": sealed.hold(part["text"])} if "text" in part else part
            for part in content
        ]
    return sealed.hold(content) if isinstance(content, str) else content
