"""
Examples as token ids, and batches of them that waste little padding.

Dimension key:  B examples   T text positions   A answer tokens of a batch
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from galenic_adapters.chat import encode
from galenic_adapters.tasks.base import Example, Task


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example's rendered question and its answer, which ends with the end token."""

    question: tuple[int, ...]
    answer: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.question) + len(self.answer)


@dataclass(frozen=True, slots=True)
class Batch:
    """
    ids_BT: questions and answers, padded on the right.   at_A: flat positions in (B, T) whose next
    token is an answer's, and next_A: that token.
    """

    ids_BT: Tensor
    at_A: Tensor
    next_A: Tensor


def encode_example(tokenizer: Any, task: Task[Any, Any], example: Example) -> Encoded:
    answer = tokenizer.encode(
        task.write(example.value, example.fields),
        add_special_tokens=False,
        split_special_tokens=True,
    )
    question = encode(tokenizer, task.render(example.fields))
    return Encoded(tuple(question), (*answer, tokenizer.eos_token_id))


def collate(encoded: Sequence[Encoded]) -> Batch:
    num_columns = max(map(len, encoded)) - 1  # the last answer token is only ever predicted
    ids_BT = torch.zeros(len(encoded), num_columns, dtype=torch.long)
    at: list[int] = []
    for row, one in enumerate(encoded):
        ids = (*one.question, *one.answer)[:-1]
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        first = row * num_columns + len(one.question) - 1
        at += range(first, first + len(one.answer))
    following = [token for one in encoded for token in one.answer]
    return Batch(ids_BT, torch.tensor(at), torch.tensor(following))


def batches(encoded: Sequence[Encoded], max_tokens: int, *, seed: str) -> Iterator[list[Encoded]]:
    """
    Batches without end, epoch by epoch, each of at most *max_tokens* with padding (or one example).

    Examples of like length go together; the order depends on *seed* alone.
    """
    for epoch in itertools.count():
        rng = random.Random(f"{seed}/{epoch}")
        by_length = sorted(encoded, key=lambda one: len(one) * rng.uniform(0.9, 1.1))
        groups = list(_groups(by_length, max_tokens))
        rng.shuffle(groups)
        yield from groups


def _groups(encoded: Sequence[Encoded], max_tokens: int) -> Iterator[list[Encoded]]:
    group: list[Encoded] = []
    longest = 0
    for one in encoded:
        longest = max(longest, len(one))
        if group and longest * (len(group) + 1) > max_tokens:
            yield group
            group, longest = [], len(one)
        group.append(one)
    yield group
