"""
What learns: the metaprompt, where it is not frozen, and a factor for every source.

Dimension key:  P prompt positions   D model width   R rank
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from galenic_adapters.factor import Factor, Metaprompt, scale


class Student(nn.Module):
    """
    One metaprompt and named factors over it.

    A factor starts at one: its first component scales by 1 and its others by 0 (random u, zero v),
    so that the composed prompt begins as the metaprompt itself.
    """

    def __init__(self, meta_PD: Tensor, names: Sequence[str], rank: int, *, seed: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        num_positions, width = meta_PD.shape
        self.meta_PD = nn.Parameter(meta_PD.float().clone())
        self.u = nn.ParameterDict()
        self.v = nn.ParameterDict()
        for name in names:
            u_PR = torch.randn(num_positions, rank, generator=rng) * 0.5
            v_RD = torch.zeros(rank, width)
            u_PR[:, 0], v_RD[0] = 1.0, 1.0
            self.u[name], self.v[name] = nn.Parameter(u_PR), nn.Parameter(v_RD)

    def prompt(self, name: str) -> Tensor:
        """The composed prompt (P, D) in float32, differentiable."""
        return scale(self.meta_PD, self.u[name], self.v[name])

    def state_of(self, name: str) -> dict[str, Tensor]:
        """A copy of *name*'s factor, as `load_state_dict` takes it."""
        state = self.state_dict()
        return {key: state[key].clone() for key in (f"u.{name}", f"v.{name}")}

    def start_from(self, name: str, factor: Factor) -> None:
        """Let *name* begin where *factor* ended."""
        with torch.no_grad():
            self.u[name].copy_(factor.u_PR)
            self.v[name].copy_(factor.v_RD)

    def metaprompt(self, dtype: torch.dtype) -> Metaprompt:
        return Metaprompt(self.meta_PD.detach().to(dtype).clone())

    def factor(self, name: str, dtype: torch.dtype) -> Factor:
        u_PR, v_RD = self.u[name].detach(), self.v[name].detach()
        return Factor(u_PR.to(dtype).clone(), v_RD.to(dtype).clone())
