"""
KV prefixes: the keys and values of a task's prompt and of the opening that its texts share (an
instruction, for one).

Dimension key:  K tasks   B examples   T text positions
"""

import copy
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, Self

import torch
from torch import Tensor

from galenic_adapters.backbone.tuning import Tuning

Openings = Mapping[int, Sequence[int]]
"""The tokens that all texts of a task begin with, by task number."""


def opening_of(texts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """
    Return the longest common beginning of a task's *texts*, such as an instruction.

    The last token of a text never belongs to it, since the answer is predicted from that token.
    """
    columns = zip(*(text[:-1] for text in texts), strict=False)
    return tuple(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))


def positions_of(seen_BT: Tensor) -> Tensor:
    """Return position ids (B, T): each column's index among seen columns, 0 for left padding."""
    return (seen_BT.cumsum(1) - 1).clamp(min=0)


class Prefixes:
    """
    Holds the KV prefixes of several tasks in a transformers cache, for any number of batches.

    which_K: the tasks' numbers, ascending.   seen_KT: the attention mask of the cache's columns;
    shorter prefixes are padded on the left.
    """

    def __init__(self, tuning: Tuning, which_K: Tensor, seen_KT: Tensor, cache: Any) -> None:
        self.tuning, self.which_K, self.seen_KT, self._cache = tuning, which_K, seen_KT, cache

    def cache(self, which_B: Tensor) -> Any:
        """Return a KV cache that holds each example's prefix, for one pass of the model."""
        cache = _copied(self._cache)
        cache.batch_select_indices(self._at(which_B))
        return cache

    def seen(self, which_B: Tensor) -> Tensor:
        """Return the attention mask (B, T) of that cache's columns."""
        return self.seen_KT[self._at(which_B)]

    def _at(self, which_B: Tensor) -> Tensor:
        return torch.searchsorted(self.which_K, which_B)

    def apart(self) -> Self:
        """Return a detached copy whose tensors are leaves that accumulate gradients."""
        cache = _copied(self._cache)
        for layer in cache.layers:
            layer.keys = layer.keys.detach().requires_grad_()
            layer.values = layer.values.detach().requires_grad_()
        return type(self)(self.tuning, self.which_K, self.seen_KT, cache)

    def tensors(self) -> list[Tensor]:
        return [tensor for layer in self._cache.layers for tensor in (layer.keys, layer.values)]


def _copied(cache: Any) -> Any:
    """Copy *cache* but not its tensors: a model replaces them and never writes into them."""
    made = copy.copy(cache)
    made.layers = [copy.copy(layer) for layer in cache.layers]
    return made
