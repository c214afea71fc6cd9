"""
Scales inside the layers of a transformers model: what an adapter multiplies activations by.

Dimension key:  B examples   T positions   L layers   W width of an activation
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

BEFORE = {"o": "self_attn.o_proj", "f": "mlp.down_proj"}
"""Places at a linear layer's input: the attention's output, the feed-forward's inner part."""
BEHIND = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj"}
"""Places at a linear layer's output, before queries and keys are rotated."""
EXPERTS = "mlp"
"""A mixture of experts has no single inner part: ``f`` scales what its experts sum up to."""

Scales = Mapping[str, Tensor]
"""By place, a scale for every example and layer (B, L, W)."""


class Scaling:
    """
    Hooks in *model*'s layers that multiply by the scales in use, example by example; without any,
    they change nothing.
    """

    def __init__(self, model: Any) -> None:
        self._in_use: Scales = {}
        for number, layer in enumerate(model.model.layers):
            for place, path in BEHIND.items():
                layer.get_submodule(path).register_forward_hook(self._behind(place, number))
            for place, path in BEFORE.items():
                if (module := _find(layer, path)) is not None:
                    module.register_forward_pre_hook(self._before(place, number))
                else:
                    layer.get_submodule(EXPERTS).register_forward_hook(self._behind(place, number))

    def use(self, scales: Scales | None) -> None:
        """Multiply by these from now on."""
        self._in_use = scales or {}

    @contextmanager
    def using(self, scales: Scales | None) -> Iterator[None]:
        """Multiply by these inside, and by what was in use before afterwards."""
        before = self._in_use
        self.use(scales)
        try:
            yield
        finally:
            self._in_use = before

    def _scaled(self, place: str, number: int, x_BTW: Tensor) -> Tensor:
        if place not in self._in_use:
            return x_BTW
        scale_B1W = self._in_use[place][:, number, None]
        return x_BTW * scale_B1W.to(x_BTW.dtype)

    def _before(self, place: str, number: int) -> Callable[..., Any]:
        def scale(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return (self._scaled(place, number, inputs[0]), *inputs[1:])

        return scale

    def _behind(self, place: str, number: int) -> Callable[..., Any]:
        def scale(module: nn.Module, inputs: Any, output: Any) -> Any:
            if isinstance(output, tuple):  # a mixture of experts tells its router's scores too
                return (self._scaled(place, number, output[0]), *output[1:])
            return self._scaled(place, number, output)

        return scale


def _find(layer: nn.Module, path: str) -> nn.Module | None:
    try:
        return layer.get_submodule(path)
    except AttributeError:
        return None
