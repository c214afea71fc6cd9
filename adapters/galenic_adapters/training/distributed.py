"""
Several processes, one GPU each, that take one training run's steps together.

``accelerate launch`` starts them. Each has the frozen backbone and takes its part of a step's
batches; only gradients of what learns travel, and these are small.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Crew(Protocol):
    """All members call the same methods in the same order."""

    rank: int

    def part(self, batches: Sequence[T]) -> Sequence[T]:
        """This member's, of a step's *batches*."""

    def add_up(self, parameters: Iterable[nn.Parameter], *more: Tensor) -> None:
        """Let every member have the sum of all members' gradients, and of *more*."""

    def agree(self, value: T) -> T:
        """The first member's *value*."""


class Alone:
    rank = 0

    def part(self, batches: Sequence[T]) -> Sequence[T]:
        return batches

    def add_up(self, parameters: Iterable[nn.Parameter], *more: Tensor) -> None:
        pass

    def agree(self, value: T) -> T:
        return value


class Accelerated:
    """Under ``accelerate launch``, or what else starts processes as torchrun does."""

    def __init__(self) -> None:
        from accelerate import PartialState

        self._state = PartialState(cpu=not torch.cuda.is_available())
        self.rank: int = self._state.process_index

    def part(self, batches: Sequence[T]) -> Sequence[T]:
        return batches[self.rank :: self._state.num_processes]

    def add_up(self, parameters: Iterable[nn.Parameter], *more: Tensor) -> None:
        from accelerate.utils import reduce

        for parameter in parameters:
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
