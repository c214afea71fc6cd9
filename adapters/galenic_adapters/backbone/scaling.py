"""
Scales activations inside a transformers model, each example by vectors of its own.

    x -> x * (1 + offset)        one offset (W,) for each example, layer and place

A scale is kept as its offset from 1, because bfloat16 is far finer near 0 than near 1. At every
place of `factor.PLACES`, activations pass through a module, whose hook scales them. gpt-oss
computes its experts in one piece, so their output is scaled instead.

Dimension key:  B examples   T positions   L layers   W width of a place
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

INPUTS = {"o": "self_attn.o_proj", "f": "mlp.down_proj"}
"""Places that are the input of a module in each layer."""
OUTPUTS = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj"}
"""Places that are the output of a module in each layer, before norms and rotation."""
EXPERTS = "mlp"
"""The module whose output is scaled at ``f`` if there is no single ``down_proj``."""

Scales = Mapping[str, Tensor]
"""The scales (B, L, W) of every example and layer, by place."""

OffsetOf = Callable[[str, int], Tensor | None]
"""Returns the offsets (B, W) at a place of a layer in this pass; None leaves it unscaled."""


def to_offset(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return *scale* - 1, computed in float32 and rounded to *dtype*."""
    return (scale.float() - 1).to(dtype)


@contextmanager
def scaled(model: Any, places: Sequence[str], offset_of: OffsetOf) -> Iterator[None]:
    """Let *model*'s layers scale these *places* by *offset_of* in the block; differentiable."""
    with ExitStack() as hooks:
        for hook in hook_scales(model, places, offset_of):
            hooks.callback(hook.remove)
        yield


def hook_scales(model: Any, places: Sequence[str], offset_of: OffsetOf) -> list[Any]:
    """Let *model*'s layers scale these *places* from now on; returns the hooks' handles."""
    return [
        _hook(layer, place, number, offset_of)
        for number, layer in enumerate(model.model.layers)
        for place in places
    ]


def _hook(layer: nn.Module, place: str, number: int, offset_of: OffsetOf) -> Any:
    def scale(x_BTW: Tensor) -> Tensor:
        offset_BW = offset_of(place, number)
        if offset_BW is None:
            return x_BTW
        return torch.addcmul(x_BTW, x_BTW, offset_BW[:, None].to(x_BTW.dtype))

    def scale_first(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return scale(args[0]), *args[1:]

    def scale_output(module: nn.Module, args: Any, output: Any) -> Any:
        return (scale(output[0]), *output[1:]) if isinstance(output, tuple) else scale(output)

    if place in OUTPUTS:
        return layer.get_submodule(OUTPUTS[place]).register_forward_hook(scale_output)
    if place == "f" and not hasattr(layer.mlp, "down_proj"):
        return layer.get_submodule(EXPERTS).register_forward_hook(scale_output)
    return layer.get_submodule(INPUTS[place]).register_forward_pre_hook(scale_first)
