"""
Virtual prompts inside the backbone's embedding: ids past the vocabulary become composed rows.

    id = V + slot * P + position
    row = P*[position] ∘ Σ_r u[c_r, position] v[c_r]      c = index[slot]

An adapter of rank r owns r rows, *components*, of a pool that all slots share, so it occupies r (P
+ D) numbers whatever the highest rank is. Component 0 is zero and fills the rest of an index row.

Dimension key:  T tokens   V vocabulary   P prompt positions   D model width   S slots
                C components   R highest rank   K adapters loaded at once   N their components
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Layout:
    """How many of everything; the same in the server and in every worker of the engine."""

    num_positions: int
    num_slots: int
    num_components: int
    max_rank: int

    @property
    def num_virtual(self) -> int:
        """Ids past the vocabulary that have a meaning."""
        return self.num_slots * self.num_positions

    def virtual_ids(self, vocab_size: int, slot: int) -> range:
        """The ids that stand for the prompt in *slot*."""
        first = vocab_size + slot * self.num_positions
        return range(first, first + self.num_positions)


class PromptedEmbedding(nn.Module):
    """
    A backbone's input embedding that also knows the virtual ids.

    It wraps the embedding *after* the reduce over tensor-parallel shards, so every worker adds the
    same whole rows. Its tables are static and written in place, and no branch depends on data, so
    it lives inside compiled graphs. ``weight`` is the backbone's own, under the name that
    checkpoints give it.
    """

    meta_PD: Tensor
    index_SR: Tensor
    u_CP: Tensor
    v_CD: Tensor

    def __init__(
        self, base: nn.Module, layout: Layout, *, vocab_size: int, width: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.weight = base.weight
        self.base = base
        self.layout = layout
        self.vocab_size = vocab_size
        num_rows = layout.num_components + 1
        index = torch.int16 if num_rows <= torch.iinfo(torch.int16).max else torch.int32
        for name, shape, kind in (
            ("meta_PD", (layout.num_positions, width), torch.float32),
            ("index_SR", (layout.num_slots, layout.max_rank), index),
            ("u_CP", (num_rows, layout.num_positions), dtype),
            ("v_CD", (num_rows, width), dtype),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=kind), persistent=False)

    def forward(self, ids_T: Tensor) -> Tensor:
        is_virtual_T = ids_T >= self.vocab_size
        text_TD = self.base(torch.where(is_virtual_T, 0, ids_T))
        offset_T = torch.where(is_virtual_T, ids_T - self.vocab_size, 0).long()
        prompt_TD = self.compose(
            offset_T // self.layout.num_positions, offset_T % self.layout.num_positions
        )
        return torch.where(is_virtual_T.unsqueeze(-1), prompt_TD.to(text_TD.dtype), text_TD)

    def compose(self, slot_T: Tensor, position_T: Tensor) -> Tensor:
        """The prompt rows (T, D) in float32; a rank at a time, so nothing of size T R D is made."""
        index_TR = self.index_SR[slot_T].long()
        scale_TD = torch.zeros((), device=slot_T.device)
        for rank in range(self.layout.max_rank):
            component_T = index_TR[:, rank]
            u_T = self.u_CP[component_T, position_T].float()
            scale_TD = scale_TD + u_T.unsqueeze(-1) * self.v_CD[component_T].float()
        return self.meta_PD[position_T] * scale_TD

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """
        Write what :func:`pack` made: a metaprompt (P, D), or adapters as their slots (K,), index
        rows (K, R), components (N,), u (N, P) and v (N, D); any of the two may be absent.
        """
        here = {name: tensor.to(self.meta_PD.device) for name, tensor in tensors.items()}
        if "metaprompt" in here:
            self.meta_PD.copy_(here["metaprompt"])
        if "slots" in here:
            components = here["components"].long()
            self.u_CP[components] = here["u"].to(self.u_CP.dtype)
            self.v_CD[components] = here["v"].to(self.v_CD.dtype)
            self.index_SR[here["slots"].long()] = here["index"].to(self.index_SR.dtype)
