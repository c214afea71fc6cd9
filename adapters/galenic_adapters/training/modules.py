"""
The trainable modules, for many tasks side by side.

Each task has parameters of its own; one more parameter, frozen or trained, is shared by all.

Dimension key:  K tasks   P prompt positions   D model width   R rank   B examples
                L layers   W width of an activation   X widths of all places together
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Self

import torch
from torch import Tensor, nn

from galenic_adapters.backbone.scaling import Scales
from galenic_adapters.backbone.tuning import Untuned
from galenic_adapters.factor import Factor, Metaprompt, scale
from galenic_adapters.shape import BackboneShape


class Learner(nn.Module, Untuned):
    """
    Holds the trained parameters of all tasks.

    Every parameter but the shared one is (K, ...): its first dimension is the task, so a task's
    gradient reaches its own slice only and each task learns as it would alone.
    """

    shared: nn.Parameter | None

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.register_parameter("shared", None)

    def attached(self) -> AbstractContextManager[object]:
        """Install the hooks that the module needs in the model, for the length of the block."""
        return nullcontext()

    def own(self) -> dict[str, nn.Parameter]:
        """Return the parameters (K, ...) that each task has a slice of, by name."""
        return {name: p for name, p in self.named_parameters() if p is not self.shared}

    def num_own(self) -> int:
        """Count the parameters of one task."""
        return sum(p[0].numel() for p in self.own().values())

    @torch.no_grad()
    def copy_of(self, which: int) -> dict[str, Tensor]:
        """Copy task *which*'s own parameters, by name."""
        return {name: p[which].clone() for name, p in self.own().items()}

    @torch.no_grad()
    def put_back(self, which: int, kept: dict[str, Tensor]) -> None:
        """Restore task *which*'s own parameters from such a copy."""
        for name, p in self.own().items():
            p[which] = kept[name]


class DensePrompts(Learner):
    """Gives every task a whole prompt (P, D): for teachers, and for prompt tuning by itself."""

    def __init__(self, start_PD: Tensor, names: Sequence[str]) -> None:
        super().__init__(names)
        self.rows_KPD = nn.Parameter(start_PD.float().repeat(len(names), 1, 1))

    def prompts(self, which_K: Tensor) -> Tensor:
        return self.rows_KPD[which_K]


class Factors(Learner):
    """
    Composes a prompt for every task from one metaprompt at the input: ``P* ∘ (u v)``
    (arXiv 2303.02861, eq. 2, any rank).

    Factors start at one: the first component scales by 1 and the others by 0 (random u, zero v), so
    the composed prompt begins as the metaprompt and every component has a gradient.
    """

    shared: nn.Parameter

    def __init__(self, meta_PD: Tensor, names: Sequence[str], rank: int, *, seed: int = 0) -> None:
        super().__init__(names)
        self.shared = nn.Parameter(meta_PD.float().clone())
        ones = ones_factor(meta_PD.shape[0], meta_PD.shape[1], rank, seed=seed)
        u_PR, v_RD = ones.product
        self.u_KPR = nn.Parameter(u_PR.repeat(len(names), 1, 1))
        self.v_KRD = nn.Parameter(v_RD.repeat(len(names), 1, 1))

    @classmethod
    def over(cls, metaprompt: Metaprompt, names: Sequence[str], starts: Sequence[Factor]) -> Self:
        """Make factors over a frozen metaprompt, each from its own start."""
        assert metaprompt.rows_PD is not None, "these factors act at the input"
        made = cls(metaprompt.rows_PD, names, starts[0].rank)
        made.shared.requires_grad_(False)
        with torch.no_grad():
            made.u_KPR.copy_(torch.stack([start.product[0].float() for start in starts]))
            made.v_KRD.copy_(torch.stack([start.product[1].float() for start in starts]))
        return made

    def prompts(self, which_K: Tensor) -> Tensor:
        return scale(self.shared, self.u_KPR[which_K], self.v_KRD[which_K])

    def metaprompt(self) -> Metaprompt:
        return Metaprompt(self.shared.detach().to("cpu", torch.bfloat16).clone())

    def factor(self, which: int) -> Factor:
        u_PR, v_RD = self.u_KPR[which].detach(), self.v_KRD[which].detach()
        return Factor(u_PR.cpu().clone(), v_RD.cpu().clone())


class ScaleFactors(Learner):
    """
    Scales activations in every layer by shared scales (the metaprompt) times each task's own.

    All start at one, so training starts from the untuned backbone. Parameters are (L, X) and
    (K, L, X), with the widths of all *places* side by side.
    """

    shared: nn.Parameter

    def __init__(
        self, shape: BackboneShape, names: Sequence[str], places: Sequence[str] = ("o", "f")
    ) -> None:
        super().__init__(names)
        self.widths = {place: shape.scale_width(place) for place in places}
        size = (shape.num_layers, sum(self.widths.values()))
        self.shared = nn.Parameter(torch.ones(size))
        self.own_KLX = nn.Parameter(torch.ones(len(names), *size))

    @classmethod
    def over(
        cls,
        metaprompt: Metaprompt,
        names: Sequence[str],
        starts: Sequence[Factor],
        shape: BackboneShape,
    ) -> Self:
        """Make factors over a frozen metaprompt, each from its own start."""
        made = cls(shape, names, list(metaprompt.scales))
        made.shared.requires_grad_(False)
        with torch.no_grad():
            made.shared.copy_(made._flat(metaprompt.scales))
            made.own_KLX.copy_(torch.stack([made._flat(start.scales) for start in starts]))
        return made

    def scales(self, which_B: Tensor) -> Scales:
        return self._by_place(self.shared * self.own_KLX[which_B])

    def metaprompt(self) -> Metaprompt:
        """Return the shared scales in float16, which near 1 is eight times as fine as bfloat16."""
        return Metaprompt(scales=self._by_place(self.shared.detach().to("cpu", torch.float16)))

    def factor(self, which: int) -> Factor:
        return Factor(scales=self._by_place(self.own_KLX[which].detach().cpu()))

    def _flat(self, scales: Scales) -> Tensor:
        return torch.cat([scales[place].float() for place in self.widths], dim=-1)

    def _by_place(self, flat_X: Tensor) -> dict[str, Tensor]:
        parts = torch.split(flat_X, list(self.widths.values()), dim=-1)
        return {place: part.contiguous() for place, part in zip(self.widths, parts, strict=True)}


def ones_factor(num_positions: int, width: int, rank: int, *, seed: int = 0) -> Factor:
    """Make the product factor that scales by 1 and has a gradient in every component."""
    rng = torch.Generator().manual_seed(seed)
    u_PR = torch.randn(num_positions, rank, generator=rng) * 0.5
    v_RD = torch.zeros(rank, width)
    u_PR[:, 0], v_RD[0] = 1.0, 1.0
    return Factor(u_PR, v_RD)


def mean_factor(factors: Sequence[Factor], rank: int, *, seed: int = 0) -> Factor:
    """
    Return the factor of *rank* whose product u v is nearest to the mean of the factors' products.

    Products are averaged, since signs and sizes of u and v alone mean nothing; a truncated SVD
    gives the nearest product of a rank. Columns of u get mean square 1, as in a factor of ones, so
    a learning rate has the same effect on both.
    """
    pairs = [factor.product for factor in factors]
    products = torch.stack([u_PR.float() @ v_RD.float() for u_PR, v_RD in pairs])
    left_PS, sizes_S, right_SD = torch.linalg.svd(products.mean(0), full_matrices=False)
    num_positions, width = products.shape[1:]
    made = ones_factor(num_positions, width, rank, seed=seed)
    known = min(rank, max(factor.rank for factor in factors) * len(factors), len(sizes_S))
    unit = num_positions**0.5
    u_PR, v_RD = made.product
    u_PR[:, :known] = left_PS[:, :known] * unit
    v_RD[:known] = sizes_S[:known, None] * right_SD[:known] / unit
    return made


def mean_scales(factors: Sequence[Factor]) -> Factor:
    """Return the mean of factors that scale the same places."""
    places = factors[0].scales
    return Factor(
        scales={
            place: torch.stack([factor.scales[place].float() for factor in factors]).mean(0)
            for place in places
        }
    )


FactorLearner = Factors | ScaleFactors


def learner_over(
    metaprompt: Metaprompt, names: Sequence[str], starts: Sequence[Factor], shape: BackboneShape
) -> FactorLearner:
    """Make factors of the metaprompt's form over the frozen metaprompt, each from its own start."""
    if metaprompt.scales:
        return ScaleFactors.over(metaprompt, names, starts, shape)
    return Factors.over(metaprompt, names, starts)


def ones_of(metaprompt: Metaprompt, rank: int) -> Factor:
    """Make the factor that leaves the metaprompt as it is."""
    if metaprompt.scales:
        return Factor(
            scales={
                place: torch.ones_like(scale_LW.float())
                for place, scale_LW in metaprompt.scales.items()
            }
        )
    return ones_factor(metaprompt.num_positions, metaprompt.width, rank)


def mean_of(factors: Sequence[Factor], rank: int) -> Factor:
    """Return the mean of factors of one form; of products, the nearest of *rank*."""
    return mean_scales(factors) if factors[0].scales else mean_factor(factors, rank)
