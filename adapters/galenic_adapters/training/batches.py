"""
Encodes examples as token ids and packs them into batches with little padding.

Dimension key:  B examples   T text positions   A answer tokens of a batch
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from galenic_adapters.backbone.encode import encode, encode_text
from galenic_adapters.backbone.prefixes import opening_of
from galenic_adapters.tasks.base import Example, Task


@dataclass(frozen=True, slots=True)
class Encoded:
    """Holds the token ids of an example's rendered question and of its answer with end token."""

    question: tuple[int, ...]
    answer: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.question) + len(self.answer)


@dataclass(frozen=True, slots=True)
class Row:
    """Holds an example of task number *which*; each answer token's loss is scaled by *weight*."""

    which: int
    encoded: Encoded
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.encoded)


@dataclass(frozen=True, slots=True)
class Batch:
    """
    Holds examples of several tasks as tensors.

    ids_BT: questions followed by answers, padded with 0 on the right.   at_A: indices into the
    flattened (B, T) of the positions that predict an answer token.   next_A: that token.
    which_B, which_A: task number of each example and of each answer token.
    """

    ids_BT: Tensor
    which_B: Tensor
    at_A: Tensor
    next_A: Tensor
    which_A: Tensor
    weight_A: Tensor

    def to(self, device: torch.device) -> Self:
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)}
        return type(self)(**moved)


def encode_example(tokenizer: Any, task: Task[Any, Any], example: Example) -> Encoded:
    answer = encode_text(tokenizer, task.write(example.value, example.fields))
    question = encode(tokenizer, task.render(example.fields))
    return Encoded(tuple(question), (*answer, tokenizer.eos_token_id))


def opened(examples: Sequence[Encoded]) -> tuple[tuple[int, ...], list[Encoded]]:
    """Return the token ids that all questions begin with, and the examples without them."""
    opening = opening_of([encoded.question for encoded in examples])
    return opening, [replace(e, question=e.question[len(opening) :]) for e in examples]


def collate(rows: Sequence[Row]) -> Batch:
    num_columns = max(map(len, rows)) - 1  # the last answer token is predicted, never read
    ids_BT = torch.zeros(len(rows), num_columns, dtype=torch.long)
    at: list[int] = []
    for line, row in enumerate(rows):
        question, answer = row.encoded.question, row.encoded.answer
        ids = (*question, *answer)[:-1]
        ids_BT[line, : len(ids)] = torch.tensor(ids)
        first = line * num_columns + len(question) - 1
        at += range(first, first + len(answer))
    answers = [(token, row) for row in rows for token in row.encoded.answer]
    return Batch(
        ids_BT,
        torch.tensor([row.which for row in rows]),
        torch.tensor(at),
        torch.tensor([token for token, _ in answers]),
        torch.tensor([row.which for _, row in answers]),
        torch.tensor([row.weight for _, row in answers]),
    )


def split(rows: Sequence[Row], max_tokens: int) -> Iterator[list[Row]]:
    """
    Yield *rows*, sorted by length, in batches of at most *max_tokens* tokens including padding.

    A row that is longer than that becomes a batch of its own.
    """
    group: list[Row] = []
    longest = 0
    for row in sorted(rows, key=len):
        longest = max(longest, len(row))
        if group and longest * (len(group) + 1) > max_tokens:
            yield group
            group, longest = [], len(row)
        group.append(row)
    yield group
