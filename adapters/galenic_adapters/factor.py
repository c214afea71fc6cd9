"""
An adapter's factor, the metaprompt that all share, and the prompt that the two make.

Dimension key:  P prompt positions   D model width   R rank
"""

import hashlib
from dataclasses import dataclass
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
