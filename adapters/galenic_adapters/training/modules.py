"""
What learns: for many tasks side by side, what each has alone and, where it is not frozen, what all
share.

Dimension key:  K tasks   P prompt positions   D model width   R rank
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from galenic_adapters.backbone.prompted import Tuning
from galenic_adapters.factor import Factor, Metaprompt, scale


class Learner(nn.Module, Tuning):
    """
    Every parameter but the shared one holds all tasks, the task being its first dimension; so each
    task learns as it would alone.
    """

    shared: nn.Parameter | None

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.register_parameter("shared", None)

    def choose(self, which_B: Tensor) -> None:
        pass

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
    One metaprompt, and a factor over it for every task: ``P* ∘ (u v)``, or with *additive* a kind
    that is for experiments, ``P* ∘ (u v) + a b``.

    A factor starts at one: its first component scales by 1 and its others by 0 (random u, zero v),
    so that the composed prompt begins as the metaprompt itself.
    """

    shared: nn.Parameter

    def __init__(
        self,
        meta_PD: Tensor,
        names: Sequence[str],
        rank: int,
        *,
        seed: int = 0,
        additive: bool = False,
    ) -> None:
        super().__init__(names)
        self.shared = nn.Parameter(meta_PD.float().clone())
        ones = ones_factor(meta_PD.shape[0], meta_PD.shape[1], rank, seed=seed)
        self.u_KPR = nn.Parameter(ones.u_PR.repeat(len(names), 1, 1))
        self.v_KRD = nn.Parameter(ones.v_RD.repeat(len(names), 1, 1))
        if additive:
            # As large as the rows are, so that the sum moves as much as the product does.
            a_KPR = (
                ones.u_PR.repeat(len(names), 1, 1) * meta_PD.float().square().mean().sqrt().cpu()
            )
            self.a_KPR = nn.Parameter(a_KPR)
            self.b_KRD = nn.Parameter(torch.zeros_like(self.v_KRD))

    @classmethod
    def over(
        cls,
        metaprompt: Metaprompt,
        names: Sequence[str],
        starts: Sequence[Factor],
        *,
        additive: bool = False,
    ) -> Self:
        """Factors over a frozen metaprompt, each from its own start."""
        made = cls(metaprompt.rows_PD, names, starts[0].rank, additive=additive)
        made.shared.requires_grad_(False)
        with torch.no_grad():
            made.u_KPR.copy_(torch.stack([one.u_PR.float() for one in starts]))
            made.v_KRD.copy_(torch.stack([one.v_RD.float() for one in starts]))
        return made

    def prompts(self, which_K: Tensor) -> Tensor:
        made_KPD = scale(self.shared, self.u_KPR[which_K], self.v_KRD[which_K])
        if hasattr(self, "a_KPR"):
            made_KPD = made_KPD + self.a_KPR[which_K] @ self.b_KRD[which_K]
        return made_KPD

    def metaprompt(self, dtype: torch.dtype) -> Metaprompt:
        return Metaprompt(self.shared.detach().to("cpu", dtype).clone())

    def factor(self, which: int) -> Factor:
        u_PR, v_RD = self.u_KPR[which].detach(), self.v_KRD[which].detach()
        return Factor(u_PR.cpu().clone(), v_RD.cpu().clone())


def ones_factor(num_positions: int, width: int, rank: int, *, seed: int = 0) -> Factor:
    """The factor that changes nothing, and can learn in every component."""
    rng = torch.Generator().manual_seed(seed)
    u_PR = torch.randn(num_positions, rank, generator=rng) * 0.5
    v_RD = torch.zeros(rank, width)
    u_PR[:, 0], v_RD[0] = 1.0, 1.0
    return Factor(u_PR, v_RD)


def mean_factor(factors: Sequence[Factor], rank: int, *, seed: int = 0) -> Factor:
    """
    The factor of *rank* that is nearest to the mean of these, as scales of the metaprompt.

    Their products are averaged, not u and v apart, whose signs and sizes mean nothing alone. Each
    column of u has unit size, as in a factor of ones, so that learning rates mean the same.
    """
    products = torch.stack([one.u_PR.float() @ one.v_RD.float() for one in factors])
    left_PS, sizes_S, right_SD = torch.linalg.svd(products.mean(0), full_matrices=False)
    num_positions, width = products.shape[1:]
    made = ones_factor(num_positions, width, rank, seed=seed)
    known = min(rank, max(one.rank for one in factors) * len(factors), len(sizes_S))
    unit = num_positions**0.5
    made.u_PR[:, :known] = left_PS[:, :known] * unit
    made.v_RD[:known] = sizes_S[:known, None] * right_SD[:known] / unit
    return made
