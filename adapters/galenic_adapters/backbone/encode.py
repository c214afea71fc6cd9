"""
From chat messages to the backbone's token ids, the same in training and serving.

The chat template is applied to placeholders and the contents are put in afterwards, each tokenized
as plain text: a control token written in a note (``<|im_end|>``) stays text.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer

from galenic_adapters.tasks.base import Message


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """The token ids of *text* as plain text: a control token in it stays text."""
    ids: list[int] = _plain(tokenizer.backend_tokenizer).encode(text, add_special_tokens=False).ids
    return ids


@lru_cache(maxsize=16)
def _plain(backend: Tokenizer) -> Tokenizer:
    """
    A tokenizer like *backend* that knows no control tokens.

    A copy, because transformers' ``split_special_tokens`` is a switch in the one tokenizer that all
    threads share: a text encoded by one lets the template of another lose its control tokens.
    """
    plain = deepcopy(backend)
    plain.encode_special_tokens = True
    return plain


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
            if part in self._texts:
                ids += encode_text(self._tokenizer, self._texts[part])
            else:
                ids += self._tokenizer.encode(part, add_special_tokens=False)
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
