"""
From chat messages to the backbone's token ids, the same in training and serving.

The chat template is applied to placeholders and the contents are put in afterwards, each tokenized
as plain text: a control token written in a note (``<|im_end|>``) stays text.
"""

import re
import secrets
from collections.abc import Sequence
from typing import Any

from galenic_adapters.tasks.base import Message


def encode(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """
    The token ids of *messages* under the tokenizer's chat template, ready for the assistant's turn.
    """
    nonce = secrets.token_hex(8)
    holders = {f"{nonce}x{i}x": message.content for i, message in enumerate(messages)}
    chat = [{"role": m.role, "content": h} for m, h in zip(messages, holders, strict=True)]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids: list[int] = []
    for part in re.split(f"({nonce}x[0-9]+x)", rendered):
        is_content = part in holders
        text = holders.get(part, part)
        ids += tokenizer.encode(text, add_special_tokens=False, split_special_tokens=is_content)
    return ids
