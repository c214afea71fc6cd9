"""
Virtual prompts inside the backbone's embedding: ids past the vocabulary become composed rows.

    id = V + slot * P + position
    row = P*[position] ∘ Σ_r u[c_r, position] v[c_r]      c_0 = first[slot], c_r+1 = next[c_r]

An adapter of rank r owns r rows, *components*, of a pool that all slots share, so it occupies r (P
+ D) numbers whatever the highest rank is. They are chained, at 4 bytes a component and 4 a slot.
Component 0 is zero and follows itself: every chain ends in it.

Dimension key:  T tokens   V vocabulary   P prompt positions   D model width   S slots
                C components   K adapters loaded at once   N their components
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

    def num_bytes(self, width: int, dtype: torch.dtype) -> int:
        """Of an embedding's tables, full."""
        row = (self.num_positions + width) * dtype.itemsize + 4
        return 4 * self.num_slots + self.num_components * row

    def virtual_ids(self, vocab_size: int, slot: int) -> range:
        """The ids that stand for the prompt in *slot*."""
        first = vocab_size + slot * self.num_positions
        return range(first, first + self.num_positions)


def _may_look(ids_T: Tensor) -> bool:
    """
    Whether what is in *ids_T* may decide what is done: on CPUs without compilation, where a step
    pays for each operation. Compiled, composing for every token costs less than looking.
    """
    return ids_T.is_cpu and not torch.compiler.is_compiling()


class PromptedEmbedding(nn.Module):
    """
    A backbone's input embedding that also knows the virtual ids.

    It wraps the embedding *after* the reduce over tensor-parallel shards, so every worker adds the
    same whole rows. Its tables are static and written in place, and in compiled graphs and on GPUs
    no branch depends on data. ``weight`` is the backbone's own, under the name that checkpoints
    give it.
    """

    meta_PD: Tensor
    first_S: Tensor
    next_C: Tensor
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
        for name, shape, kind in (
            ("meta_PD", (layout.num_positions, width), torch.float32),
            ("first_S", (layout.num_slots,), torch.int32),
            ("next_C", (num_rows,), torch.int32),
            ("u_CP", (num_rows, layout.num_positions), dtype),
            ("v_CD", (num_rows, width), dtype),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=kind), persistent=False)

    def forward(self, ids_T: Tensor) -> Tensor:
        is_virtual_T = ids_T >= self.vocab_size
        text_TD = self.base(torch.where(is_virtual_T, 0, ids_T))
        if _may_look(ids_T):
            text_TD[is_virtual_T] = self._rows(ids_T[is_virtual_T]).to(text_TD.dtype)
            return text_TD
        prompt_TD = self._rows(torch.where(is_virtual_T, ids_T, self.vocab_size))
        return torch.where(is_virtual_T.unsqueeze(-1), prompt_TD.to(text_TD.dtype), text_TD)

    def _rows(self, virtual_T: Tensor) -> Tensor:
        offset_T = (virtual_T - self.vocab_size).long()
        positions = self.layout.num_positions
        return self.compose(offset_T // positions, offset_T % positions)

    def compose(self, slot_T: Tensor, position_T: Tensor) -> Tensor:
        """The prompt rows (T, D) in float32; a rank at a time, so nothing of size T R D is made."""
        component_T = self.first_S[slot_T].long()
        scale_TD = torch.zeros((), device=slot_T.device)
        for _ in range(self.layout.max_rank):
            if _may_look(component_T) and not component_T.any():
                break  # every chain has ended
            u_T = self.u_CP[component_T, position_T].float()
            scale_TD = scale_TD + u_T.unsqueeze(-1) * self.v_CD[component_T].float()
            component_T = self.next_C[component_T].long()
        return self.meta_PD[position_T] * scale_TD

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """
        Write what :func:`pack` made: a metaprompt (P, D), or adapters as their slots (K,) and
        first components (K,), and components (N,), what follows each (N,), u (N, P) and v (N, D);
        any of the two may be absent.
        """
        here = {name: tensor.to(self.meta_PD.device) for name, tensor in tensors.items()}
        if "metaprompt" in here:
            self.meta_PD.copy_(here["metaprompt"])
        if "slots" in here:
            components = here["components"].long()
            self.u_CP[components] = here["u"].to(self.u_CP.dtype)
            self.v_CD[components] = here["v"].to(self.v_CD.dtype)
            self.next_C[components] = here["next"]
            self.first_S[here["slots"].long()] = here["first"]
