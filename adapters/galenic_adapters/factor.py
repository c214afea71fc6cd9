"""
An adapter's factor, the metaprompt that all share, and the prompt that the two make.

Dimension key:  P prompt positions   D model width   R rank   L layers   W width of a place
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import add

from safetensors.torch import save
from torch import Tensor

from galenic_adapters.errors import BadFactor


def digest_of(tensors: dict[str, Tensor]) -> str:
    """The name of some tensors: ``sha256:`` and the hash of their canonical safetensors bytes."""
    canonical = save({name: tensors[name].contiguous() for name in sorted(tensors)})
    return "sha256:" + hashlib.sha256(canonical).hexdigest()


@dataclass(frozen=True, eq=False)
class Metaprompt:
    """The soft prompt P* that every adapter of a backbone scales; named by its digest."""

    rows_PD: Tensor

    def __post_init__(self) -> None:
        if self.rows_PD.ndim != 2:
            raise BadFactor(f"expected a metaprompt matrix, got shape {tuple(self.rows_PD.shape)}")
        if not self.rows_PD.isfinite().all():
            raise BadFactor("metaprompt holds NaN or infinity")

    @property
    def num_positions(self) -> int:
        return self.rows_PD.shape[0]

    @property
    def width(self) -> int:
        return self.rows_PD.shape[1]

    @cached_property
    def digest(self) -> str:
        return digest_of({"metaprompt": self.rows_PD})


@dataclass(frozen=True, eq=False)
class Factor:
    """A task's low-rank scale of the metaprompt: u_PR (P, R) times v_RD (R, D)."""

    u_PR: Tensor
    v_RD: Tensor

    def __post_init__(self) -> None:
        shapes = f"u {tuple(self.u_PR.shape)}, v {tuple(self.v_RD.shape)}"
        if self.u_PR.ndim != 2 or self.v_RD.ndim != 2:
            raise BadFactor(f"expected two matrices, got {shapes}")
        if self.u_PR.shape[1] != self.v_RD.shape[0]:
            raise BadFactor(f"ranks disagree in {shapes}")
        if 0 in self.u_PR.shape or 0 in self.v_RD.shape:
            raise BadFactor(f"a dimension is zero in {shapes}")
        if not (self.u_PR.isfinite().all() and self.v_RD.isfinite().all()):
            raise BadFactor("factor holds NaN or infinity")

    @property
    def rank(self) -> int:
        return self.u_PR.shape[1]

    @property
    def num_parameters(self) -> int:
        return self.u_PR.numel() + self.v_RD.numel()


def scale(meta_PD: Tensor, u_PR: Tensor, v_RD: Tensor) -> Tensor:
    """
    ``P* ∘ (u v)`` in float32, differentiable (arXiv 2303.02861, eq. 2, any rank).

    Leading dimensions broadcast, so a batch of u (B, P, R) and v (B, R, D) makes (B, P, D). Summed
    over R in order, not by ``@``, whose bits depend on how many are multiplied side by side.
    """
    u_PR, v_RD = u_PR.float(), v_RD.float()
    ranks = range(u_PR.shape[-1])
    return meta_PD.float() * reduce(
        add, (u_PR[..., r, None] * v_RD[..., r, None, :] for r in ranks)
    )


def compose(metaprompt: Metaprompt, factor: Factor) -> Tensor:
    """
    The prompt (P, D) that *factor* makes of the metaprompt, in the metaprompt's dtype.

    Composed in float32 and cast once. Raises `BadFactor` where the shapes do not fit.
    """
    made = (factor.u_PR.shape[0], factor.v_RD.shape[1])
    if made != tuple(metaprompt.rows_PD.shape):
        raise BadFactor(
            f"factor of {made} does not fit metaprompt {tuple(metaprompt.rows_PD.shape)}"
        )
    return scale(metaprompt.rows_PD, factor.u_PR, factor.v_RD).to(metaprompt.rows_PD.dtype)


PLACES = ("q", "k", "v", "o", "f")
"""
Activations that scales multiply in every layer: what the projections to queries, keys and values
give, what attention gives, and the feed-forward's inner activations (arXiv 2205.05638).
"""


@dataclass(frozen=True, eq=False)
class Composed:
    """
    An adapter as an engine takes it; a part that is absent changes nothing.

    rows_PD: vectors that stand before the text.   prefix: keys and values (L, P, W) that stand
    before the text in every layer.   scales: factors (L, W) of the text's activations, by place.
    """

    rows_PD: Tensor | None = None
    prefix: tuple[Tensor, Tensor] | None = None
    scales: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows_PD is not None and self.prefix is not None:
            raise BadFactor("an adapter has rows or a prefix, not both")
        if unknown := self.scales.keys() - set(PLACES):
            raise BadFactor(f"no place is called {min(unknown)!r}, only {', '.join(PLACES)}")
        parts = self._parts
        for name, (tensor, ndim) in parts.items():
            if tensor.ndim != ndim:
                shape = tuple(tensor.shape)
                raise BadFactor(f"{name} is of shape {shape}, not of {ndim} dimensions")
            if not tensor.isfinite().all():
                raise BadFactor(f"{name} holds NaN or infinity")
        layers = {name: len(parts[name][0]) for name in parts if name != "the prompt's rows"}
        if len(set(layers.values())) > 1:
            raise BadFactor(f"numbers of layers disagree: {layers}")

    @property
    def num_positions(self) -> int:
        """Of the prompt, if there is one."""
        return next((tensor.shape[-2] for tensor in self.prompt.values()), 0)

    @property
    def prompt(self) -> dict[str, Tensor]:
        """The tensors of the prompt by name: none, one, or two."""
        if self.rows_PD is not None:
            return {"rows": self.rows_PD}
        return dict(zip(("keys", "values"), self.prefix or (), strict=False))

    @cached_property
    def prompt_digest(self) -> str:
        """Names the prompt, which other adapters may have too."""
        return digest_of(self.prompt)

    @property
    def num_parameters(self) -> int:
        return sum(tensor.numel() for tensor, _ in self._parts.values())

    @property
    def _parts(self) -> dict[str, tuple[Tensor, int]]:
        """Every tensor, with the dimensions that it has to have."""
        parts = {f"the scale of {place}": (self.scales[place], 2) for place in self.scales}
        ndim = 2 if self.rows_PD is not None else 3
        return parts | {f"the prompt's {name}": (one, ndim) for name, one in self.prompt.items()}
