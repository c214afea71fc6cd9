"""
Examples as token ids, and batches of them that waste little padding.

Dimension key:  B examples   T text positions   A answer tokens of a batch
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from galenic_adapters.backbone.encode import encode, encode_text
from galenic_adapters.backbone.prompted import opening_of
from galenic_adapters.tasks.base import Example, Task


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example's rendered question and its answer, which ends with the end token."""

    question: tuple[int, ...]
    answer: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.question) + len(self.answer)


@dataclass(frozen=True, slots=True)
class Row:
    """An example of task number *which*; every token of its answer counts *weight*."""

    which: int
    encoded: Encoded
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.encoded)


@dataclass(frozen=True, slots=True)
class Batch:
    """
    ids_BT: questions and answers, padded on the right.   at_A: flat positions in (B, T) whose next
    token is an answer's, and next_A: that token.   which_B, which_A: the task's number.
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
    """What all their questions begin with, and the examples without it."""
    opening = opening_of([one.question for one in examples])
    return opening, [replace(one, question=one.question[len(opening) :]) for one in examples]


def collate(rows: Sequence[Row]) -> Batch:
    num_columns = max(map(len, rows)) - 1  # the last answer token is only ever predicted
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
    """*rows*, like lengths together, in batches of at most *max_tokens* with padding (or one)."""
    group: list[Row] = []
    longest = 0
    for row in sorted(rows, key=len):
        longest = max(longest, len(row))
        if group and longest * (len(group) + 1) > max_tokens:
            yield group
            group, longest = [], len(row)
        group.append(row)
    yield group
