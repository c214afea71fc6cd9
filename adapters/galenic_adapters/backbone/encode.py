"""
Encodes chat messages as the backbone's token ids, identically in training and serving.

The chat template is applied to placeholders, and contents replace them afterwards, each tokenized
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
    """Tokenize *text* as plain text: a control token in it stays text."""
    ids: list[int] = _plain(tokenizer.backend_tokenizer).encode(text, add_special_tokens=False).ids
    return ids


@lru_cache(maxsize=16)
def _plain(backend: Tokenizer) -> Tokenizer:
    """
    Copy *backend* as a tokenizer that knows no control tokens.

    Copied, because transformers' ``split_special_tokens`` is a switch in the tokenizer that all
    threads share: while one encodes a text, another's template would lose its control tokens.
    """
    plain = deepcopy(backend)
    plain.encode_special_tokens = True
    return plain


class Sealed:
    """
    Hides callers' texts from a chat template behind placeholders while it is applied.

    The template's own output is tokenized with control tokens; the texts are tokenized without.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._nonce = secrets.token_hex(8)
        self._texts: dict[str, str] = {}
        control = [str(token) for token in tokenizer.added_tokens_decoder.values()]
        self._control = re.compile("|".join(map(re.escape, control)) or r"(?!)")

    def hold(self, text: str) -> str:
        """Keep *text* and return its placeholder; an empty text is returned as it is."""
        if not text:
            return text
        holder = f"{self._nonce}x{len(self._texts)}x"
        self._texts[holder] = text
        return holder

    def disarm(self, value: Any) -> Any:
        """Replace each control token in the strings of *value*, any JSON, with a placeholder."""
        if isinstance(value, str):
            return self._control.sub(lambda found: self.hold(found[0]), value)
        if isinstance(value, Mapping):
            return {self.disarm(key): self.disarm(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.disarm(item) for item in value]
        return value

    def encode(self, rendered: str) -> list[int]:
        """Tokenize the template's output, with the kept texts in place of their placeholders."""
        ids: list[int] = []
        for part in re.split(f"({self._nonce}x[0-9]+x)", rendered):
            if part in self._texts:
                ids += encode_text(self._tokenizer, self._texts[part])
            else:
                ids += self._tokenizer.encode(part, add_special_tokens=False)
        return ids


def encode(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """
    Encode *messages* under the tokenizer's chat template, up to where the assistant's turn begins.
    """
    sealed = Sealed(tokenizer)
    chat = [{"role": m.role, "content": sealed.hold(m.content)} for m in messages]
    return sealed.encode(
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    )
