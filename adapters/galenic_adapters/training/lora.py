"""
LoRA (arXiv 2106.09685) for many tasks side by side: a baseline trained by the same loop as prompts.

Gives the same numbers as PEFT, which trains one task at a time
(`tests/adapters/training/test_lora.py`).

Dimension key:  K tasks   B examples   T text positions   I input width   O output width   R rank
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from galenic_adapters.training.modules import Learner


class Loras(Learner):
    """
    Low-rank updates of a model's linear layers, or only of those called one of *layers*.

    They act inside `attached`, on the batch whose tasks `choose` was called with last.
    """

    def __init__(
        self,
        model: Any,
        names: Sequence[str],
        rank: int,
        *,
        alpha: float = 16.0,
        layers: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(names)
        self.scaling = alpha / rank
        self.which_B: Tensor | None = None
        self.layers = list(linear_layers(model, layers))
        rngs = [torch.Generator().manual_seed(crc32(name.encode()) + seed) for name in names]
        for number, layer in enumerate(self.layers):
            a_KRI = torch.empty(len(names), rank, layer.in_features)
            for a_RI, rng in zip(a_KRI, rngs, strict=True):
                nn.init.kaiming_uniform_(a_RI, a=math.sqrt(5), generator=rng)  # as PEFT does
            self.register_parameter(f"a{number}", nn.Parameter(a_KRI))
            b_KOR = torch.zeros(len(names), layer.out_features, rank)
            self.register_parameter(f"b{number}", nn.Parameter(b_KOR))

    def prompts(self, which_K: Tensor) -> None:
        return None

    def choose(self, which_B: Tensor) -> None:
        self.which_B = which_B

    @contextmanager
    def attached(self) -> "Iterator[Loras]":
        """Hook the updates of the chosen tasks into the model's linear layers for the block."""
        hooks = [
            layer.register_forward_hook(self._hook(number))
            for number, layer in enumerate(self.layers)
        ]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, number: int) -> Any:
        def add(layer: nn.Module, inputs: tuple[Tensor], out_BTO: Tensor) -> Tensor:
            a_KRI, b_KOR = getattr(self, f"a{number}"), getattr(self, f"b{number}")
            assert self.which_B is not None
            x_BTI = inputs[0]  # updates are kept in float32 and applied in the backbone's dtype
            low_BTR = torch.bmm(x_BTI, a_KRI[self.which_B].mT.to(x_BTI.dtype))
            more_BTO = torch.bmm(low_BTR, b_KOR[self.which_B].mT.to(x_BTI.dtype))
            return out_BTO + self.scaling * more_BTO

        return add


def linear_layers(model: Any, names: Sequence[str] = ()) -> Iterator[nn.Linear]:
    """Yield every linear layer but the output head; with *names*, only those called so."""
    head = model.get_output_embeddings()
    for path, module in model.named_modules():
        is_named = not names or path.rpartition(".")[2] in names
        if isinstance(module, nn.Linear) and module is not head and is_named:
            yield module
