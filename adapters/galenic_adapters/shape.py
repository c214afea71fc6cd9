"""
The sizes of a backbone that adapters have to fit. No torch, so that a look at a machine is quick.
"""

from collections.abc import Iterable
from dataclasses import dataclass

PLACES = ("q", "k", "v", "o", "f")
"""Activations that scales multiply in every layer, in the order of their computation."""
SCALE_PREFIX = "scales."


@dataclass(frozen=True, slots=True)
class BackboneShape:
    """
    Holds the sizes of a backbone that adapters have to fit.

    width: the model's (D).   attention: width of all query heads together.   keys: width of all key
    heads together.   inner: width of the feed-forward's inner activations.
    """

    num_layers: int
    width: int
    attention: int
    keys: int
    inner: int

    def scale_width(self, place: str) -> int:
        """Return the width W of the activations at *place*."""
        widths = {"q": self.attention, "k": self.keys, "v": self.keys}
        return (widths | {"o": self.attention, "f": self.inner})[place]

    def scale_shapes(self, places: Iterable[str] = PLACES) -> dict[str, tuple[int, int]]:
        """Return the shapes (L, W) of the scales at *places*."""
        return {place: (self.num_layers, self.scale_width(place)) for place in places}

    def of(self, name: str) -> tuple[int | None, ...]:
        """Return the shape that a factor's tensor *name* must have here; None is any size."""
        if name.startswith(SCALE_PREFIX):
            return (self.num_layers, self.scale_width(name.removeprefix(SCALE_PREFIX)))
        if name in ("keys", "values"):
            return (self.num_layers, None, self.keys)
        return (None, None) if name == "u" else (None, self.width)
