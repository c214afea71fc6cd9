"""
Shares the steps of one training run among a process group, one GPU per process.

``accelerate launch`` starts the processes. Each holds the frozen backbone and computes its part of
a step's batches. Only gradients of learned parameters are reduced, and these are small.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Crew(Protocol):
    """A process group. All members call the same methods in the same order."""

    rank: int

    def part(self, batches: Sequence[T]) -> Sequence[T]:
        """Return this member's part of a step's *batches*."""

    def add_up(self, parameters: Iterable[nn.Parameter], *more: Tensor) -> None:
        """All-reduce, in place: sum the gradients of *parameters*, and *more*, over members."""

    def agree(self, value: T) -> T:
        """Broadcast: return the first member's *value*."""


class Alone:
    """A process group of one, which needs no communication."""

    rank = 0

    def part(self, batches: Sequence[T]) -> Sequence[T]:
        return batches

    def add_up(self, parameters: Iterable[nn.Parameter], *more: Tensor) -> None:
        pass

    def agree(self, value: T) -> T:
        return value


class Accelerated:
    """A process group started by ``accelerate launch`` or anything that works like torchrun."""

    def __init__(self) -> None:
        from accelerate import PartialState

        self._state = PartialState(cpu=not torch.cuda.is_available())
        self.rank: int = self._state.process_index

    def part(self, batches: Sequence[T]) -> Sequence[T]:
        return batches[self.rank :: self._state.num_processes]

    def add_up(self, parameters: Iterable[nn.Parameter], *more: Tensor) -> None:
        from accelerate.utils import reduce

        for parameter in parameters:
            # A member that got no batches has no gradients, but must take part in the reduction.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad = reduce(parameter.grad, reduction="sum")
        for tensor in more:
            tensor.copy_(reduce(tensor.clone(), reduction="sum"))

    def agree(self, value: T) -> T:
        from accelerate.utils import broadcast_object_list

        box = [value]
        broadcast_object_list(box)
        return box[0]


def make_crew() -> Crew:
    return Accelerated() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Alone()
