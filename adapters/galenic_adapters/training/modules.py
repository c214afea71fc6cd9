"""
The modules that learn, for many tasks side by side: parameters that each task has alone and, where
it is not frozen, one that all share.

Dimension key:  K tasks   P prompt positions   D model width   R rank   B examples
                L layers   W width of an activation   X widths of all places together
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Self

import torch
from torch import Tensor, nn

from galenic_adapters.backbone.prompted import Untuned
from galenic_adapters.backbone.scaling import Scales
from galenic_adapters.factor import BackboneShape, Factor, Metaprompt, scale


class Learner(nn.Module, Untuned):
    """
    Every parameter but the shared one holds all tasks, the task being its first dimension; so each
    task learns as it would alone.
    """

    shared: nn.Parameter | None

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.register_parameter("shared", None)

    def attached(self) -> AbstractContextManager[object]:
        """Inside, hooks that the module needs in the model are in place."""
        return nullcontext()

    def own(self) -> dict[str, nn.Parameter]:
        """What each task has alone."""
        return {name: p for name, p in self.named_parameters() if p is not self.shared}

    def num_own(self) -> int:
        """Parameters of one task."""
        return sum(p[0].numel() for p in self.own().values())

    @torch.no_grad()
    def copy_of(self, which: int) -> dict[str, Tensor]:
        """What task *which* has alone, as it is now."""
        return {name: p[which].clone() for name, p in self.own().items()}

    @torch.no_grad()
    def put_back(self, which: int, kept: dict[str, Tensor]) -> None:
        for name, p in self.own().items():
            p[which] = kept[name]


class DensePrompts(Learner):
    """A whole prompt for every task: teachers, and single-task prompt tuning."""

    def __init__(self, start_PD: Tensor, names: Sequence[str]) -> None:
        super().__init__(names)
        self.rows_KPD = nn.Parameter(start_PD.float().repeat(len(names), 1, 1))

    def prompts(self, which_K: Tensor) -> Tensor:
        return self.rows_KPD[which_K]


class Factors(Learner):
    """
    One metaprompt at the input, and a factor over it for every task: ``P* ∘ (u v)``.

    A factor starts at one: its first component scales by 1 and its others by 0 (random u, zero v),
    so that the composed prompt begins as the metaprompt itself.
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
        """Factors over a frozen metaprompt, each from its own start."""
        assert metaprompt.rows_PD is not None, "these factors act at the input"
        made = cls(metaprompt.rows_PD, names, starts[0].rank)
        made.shared.requires_grad_(False)
        with torch.no_grad():
            made.u_KPR.copy_(torch.stack([one.product[0].float() for one in starts]))
            made.v_KRD.copy_(torch.stack([one.product[1].float() for one in starts]))
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
    Scales of activations in every layer: shared ones, the metaprompt, times each task's own. All
    begin at one, so that the backbone begins as it is.
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
        """Factors over a frozen metaprompt, each from its own start."""
        made = cls(shape, names, list(metaprompt.scales))
        made.shared.requires_grad_(False)
        with torch.no_grad():
            made.shared.copy_(made._flat(metaprompt.scales))
            made.own_KLX.copy_(torch.stack([made._flat(one.scales) for one in starts]))
        return made

    def scales(self, which_B: Tensor) -> Scales:
        return self._by_place(self.shared * self.own_KLX[which_B])

    def metaprompt(self) -> Metaprompt:
        """In float16, which near one is eight times as fine as bfloat16."""
        return Metaprompt(scales=self._by_place(self.shared.detach().to("cpu", torch.float16)))

    def factor(self, which: int) -> Factor:
        return Factor(scales=self._by_place(self.own_KLX[which].detach().cpu()))

    def _flat(self, scales: Scales) -> Tensor:
        return torch.cat([scales[place].float() for place in self.widths], dim=-1)

    def _by_place(self, flat_X: Tensor) -> dict[str, Tensor]:
        parts = torch.split(flat_X, list(self.widths.values()), dim=-1)
        return {place: part.contiguous() for place, part in zip(self.widths, parts, strict=True)}


def ones_factor(num_positions: int, width: int, rank: int, *, seed: int = 0) -> Factor:
    """The factor that changes nothing, and can learn in every component."""
    rng = torch.Generator().manual_seed(seed)
    u_PR = torch.randn(num_positions, rank, generator=rng) * 0.5
    v_RD = torch.zeros(rank, width)
    u_PR[:, 0], v_RD[0] = 1.0, 1.0
    return Factor(u_PR, v_RD)


def mean_factor(factors: Sequence[Factor], rank: int, *, seed: int = 0) -> Factor:
    """
    The factor of *rank* that is nearest to the mean of these, as scales of the metaprompt's rows.

    Their products are averaged, not u and v apart, whose signs and sizes mean nothing alone. Each
    column of u has unit size, as in a factor of ones, so that learning rates mean the same.
    """
    pairs = [one.product for one in factors]
    products = torch.stack([u_PR.float() @ v_RD.float() for u_PR, v_RD in pairs])
    left_PS, sizes_S, right_SD = torch.linalg.svd(products.mean(0), full_matrices=False)
    num_positions, width = products.shape[1:]
    made = ones_factor(num_positions, width, rank, seed=seed)
    known = min(rank, max(one.rank for one in factors) * len(factors), len(sizes_S))
    unit = num_positions**0.5
    u_PR, v_RD = made.product
    u_PR[:, :known] = left_PS[:, :known] * unit
    v_RD[:known] = sizes_S[:known, None] * right_SD[:known] / unit
    return made


def mean_scales(factors: Sequence[Factor]) -> Factor:
    """The mean of factors that scale the same places."""
    places = factors[0].scales
    return Factor(
        scales={
            place: torch.stack([one.scales[place].float() for one in factors]).mean(0)
            for place in places
        }
    )


FactorLearner = Factors | ScaleFactors


def learner_over(
    metaprompt: Metaprompt, names: Sequence[str], starts: Sequence[Factor], shape: BackboneShape
) -> FactorLearner:
    """Factors of the metaprompt's own form over it, frozen, each from its own start."""
    if metaprompt.scales:
        return ScaleFactors.over(metaprompt, names, starts, shape)
    return Factors.over(metaprompt, names, starts)


def ones_of(metaprompt: Metaprompt, rank: int) -> Factor:
    """The factor that leaves the metaprompt as it is."""
    if metaprompt.scales:
        return Factor(
            scales={place: torch.ones_like(one.float()) for place, one in metaprompt.scales.items()}
        )
    return ones_factor(metaprompt.num_positions, metaprompt.width, rank)


def mean_of(factors: Sequence[Factor], rank: int) -> Factor:
    """The mean of factors of one form; of products, the nearest of *rank*."""
    return mean_scales(factors) if factors[0].scales else mean_factor(factors, rank)
