"""
Tunes a frozen backbone: by prompts, deep prompts, scales or hooks of several tasks.

Dimension key:  K tasks   B examples   P prompt positions   D model width   L layers
                W width of keys, or of a place
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from galenic_adapters.backbone.scaling import Scales
from galenic_adapters.factor import Composed


class Tuning(Protocol):
    """Tunes the frozen backbone for several tasks: by prompts, deep prompts, scales or hooks."""

    def prompts(self, which_K: Tensor) -> Tensor | None:
        """Return the prompts (K, P, D) of these tasks, if any."""

    def prefix(self, which_K: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the keys and values (K, L, P, W) of these tasks' deep prompts, if any."""

    def scales(self, which_B: Tensor) -> Scales | None:
        """Return the scales of activations, by place, for examples of these tasks, if any."""

    def choose(self, which_B: Tensor) -> None:
        """Set the tasks of the next batch's examples, for hooks inside the model (LoRA)."""


class Untuned:
    """Tunes nothing: the bare backbone answers."""

    def prompts(self, which_K: Tensor) -> Tensor | None:
        return None

    def prefix(self, which_K: Tensor) -> tuple[Tensor, Tensor] | None:
        return None

    def scales(self, which_B: Tensor) -> Scales | None:
        return None

    def choose(self, which_B: Tensor) -> None:
        pass


class Fixed(Untuned):
    """Tunes by composed adapters of one form and prompt length; task k is the k-th of them."""

    def __init__(self, composed: Sequence[Composed]) -> None:
        self._composed = list(composed)

    def prompts(self, which_K: Tensor) -> Tensor | None:
        return self._stacked(which_K, lambda composed: composed.rows_PD)

    def prefix(self, which_K: Tensor) -> tuple[Tensor, Tensor] | None:
        keys_KLPW = self._stacked(which_K, lambda composed: composed.prefix and composed.prefix[0])
        values_KLPW = self._stacked(
            which_K, lambda composed: composed.prefix and composed.prefix[1]
        )
        return None if keys_KLPW is None or values_KLPW is None else (keys_KLPW, values_KLPW)

    def scales(self, which_B: Tensor) -> Scales | None:
        made = {
            place: self._stacked(which_B, partial(_scale_of, place))
            for place in self._composed[0].scales
        }
        return {place: scale for place, scale in made.items() if scale is not None}

    def _stacked(self, which: Tensor, part: Callable[[Composed], Tensor | None]) -> Tensor | None:
        tensors = [part(self._composed[number]) for number in which.tolist()]
        there = [tensor for tensor in tensors if tensor is not None]
        return torch.stack(there).to(which.device) if there else None


def _scale_of(place: str, composed: Composed) -> Tensor:
    return composed.scales[place]
