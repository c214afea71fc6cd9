"""
Scales inside the layers: what a task learns is one vector a layer and place, by which activations
of text tokens are multiplied ((IA)³, arXiv 2205.05638).

Dimension key:  K tasks   B examples   T positions   L layers   W width of a place
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from galenic_adapters.training.learners import Learner

INPUTS = {"o": "self_attn.o_proj", "f": "mlp.down_proj"}
"""Places at the input of a linear layer: the attention's output, the feed-forward's inner part."""
OUTPUTS = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj"}
"""Places at the output of a linear layer, before keys and queries are rotated."""


class Scales(Learner):
    """*places* are multiplied; *shifts* get something added."""

    def __init__(
        self,
        model: Any,
        names: Sequence[str],
        places: Sequence[str],
        *,
        shifts: Sequence[str] = (),
        prompts_KPD: Tensor | None = None,
        rank: int = 0,
    ) -> None:
        super().__init__(names)
        self.which_B: Tensor | None = None
        self.places, self.shifts = tuple(places), tuple(shifts)
        self.layers = list(model.model.layers)
        self.register_buffer("fixed_KPD", prompts_KPD)
        for place in dict.fromkeys((*places, *shifts)):
            module = self.layers[0].get_submodule((INPUTS | OUTPUTS)[place])
            width = module.in_features if place in INPUTS else module.out_features
            for kind, which in (("scale", self.places), ("shift", self.shifts)):
                if place in which and rank and kind == "scale":
                    rng = torch.Generator().manual_seed(0)
                    u_LR = torch.randn(len(self.layers), rank, generator=rng) * 0.5
                    u_LR[:, 0] = 1.0
                    self.register_parameter(
                        f"u_{place}", nn.Parameter(u_LR.repeat(len(names), 1, 1))
                    )
                    self.register_parameter(
                        f"v_{place}", nn.Parameter(torch.zeros(len(names), rank, width))
                    )
                elif place in which:
                    zeros = torch.zeros(len(names), len(self.layers), width)
                    self.register_parameter(f"{kind}_{place}", nn.Parameter(zeros))

    def prompts(self, which_K: Tensor) -> Tensor | None:
        return None if self.fixed_KPD is None else self.fixed_KPD[which_K]

    def choose(self, which_B: Tensor | None) -> None:
        self.which_B = which_B

    @contextmanager
    def attached(self) -> Iterator["Scales"]:
        hooks = []
        for number, layer in enumerate(self.layers):
            for place in dict.fromkeys((*self.places, *self.shifts)):
                if place in INPUTS:
                    module = layer.get_submodule(INPUTS[place])
                    hooks.append(module.register_forward_pre_hook(self._before(place, number)))
                else:
                    module = layer.get_submodule(OUTPUTS[place])
                    hooks.append(module.register_forward_hook(self._behind(place, number)))
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    def _act(self, place: str, number: int, x_BTW: Tensor) -> Tensor:
        if self.which_B is None:
            return x_BTW
        if place in self.places:
            if hasattr(self, f"u_{place}"):
                u_BR = getattr(self, f"u_{place}")[self.which_B, number]
                v_BRW = getattr(self, f"v_{place}")[self.which_B]
                scale_BW = 1 + (u_BR[:, None] @ v_BRW)[:, 0]
            else:
                scale_KLW = getattr(self, f"scale_{place}")
                scale_BW = 1 + scale_KLW[self.which_B, number]
            x_BTW = x_BTW * scale_BW[:, None].to(x_BTW.dtype)
        if place in self.shifts:
            shift_KLW = getattr(self, f"shift_{place}")
            x_BTW = x_BTW + shift_KLW[self.which_B, number][:, None].to(x_BTW.dtype)
        return x_BTW

    def _before(self, place: str, number: int) -> Any:
        return lambda module, inputs: (self._act(place, number, inputs[0]), *inputs[1:])

    def _behind(self, place: str, number: int) -> Any:
        return lambda module, inputs, said: self._act(place, number, said)
