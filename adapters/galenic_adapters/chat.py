"""
From chat messages to the backbone's token ids, the same in training and serving.

The chat template is applied to placeholders and the contents are put in afterwards, each tokenized
as plain text: a control token written in a note (``<|im_end|>``) stays text.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from galenic_adapters.tasks.base import Message


class Sealed:
    """
    Other people's texts, kept out of a template's sight while it is applied.

    What the template says around them is tokenized as the backbone's own; they are plain text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._nonce = secrets.token_hex(8)
        self._texts: dict[str, str] = {}
        control = [str(token) for token in tokenizer.added_tokens_decoder.values()]
        self._control = re.compile("|".join(map(re.escape, control)) or r"(?!)")

    def hold(self, text: str) -> str:
        """A placeholder for all of *text*, and for none where it is empty."""
        if not text:
            return text
        holder = f"{self._nonce}x{len(self._texts)}x"
        self._texts[holder] = text
        return holder

    def disarm(self, value: Any) -> Any:
        """*value*, whatever JSON it is, with a placeholder for each control token in its texts."""
        if isinstance(value, str):
            return self._control.sub(lambda found: self.hold(found[0]), value)
        if isinstance(value, Mapping):
            return {self.disarm(key): self.disarm(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.disarm(one) for one in value]
        return value

    def encode(self, rendered: str) -> list[int]:
        """The token ids of what the template made, with the texts in their places."""
        ids: list[int] = []
        for part in re.split(f"({self._nonce}x[0-9]+x)", rendered):
            is_text = part in self._texts
            ids += self._tokenizer.encode(
                self._texts.get(part, part), add_special_tokens=False, split_special_tokens=is_text
            )
        return ids


def encode(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """
    The token ids of *messages* under the tokenizer's chat template, ready for the assistant's turn.
    """
    sealed = Sealed(tokenizer)
    chat = [{"role": m.role, "content": sealed.hold(m.content)} for m in messages]
    return sealed.encode(
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    )
