"""
Computes the loss of a batch: likelihood of the answers and, with teachers, distillation.

Dimension key:  A answer tokens   D model width   V vocabulary   K tasks
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from galenic_adapters.backbone.prefixes import Openings, Prefixes
from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.backbone.tuning import Tuning
from galenic_adapters.training.batches import Batch
from galenic_adapters.training.recipe import Distillation


@dataclass(frozen=True, slots=True)
class Teaching:
    """Holds frozen teachers, numbered like the student's tasks, and the weights of their losses."""

    teachers: Tuning | Prefixes
    distillation: Distillation

    @torch.no_grad()
    def ahead(self, backbone: PromptedBackbone, which_B: Tensor, openings: Openings) -> Self:
        """Return a copy with the teachers' KV prefixes for *which_B* precomputed."""
        return replace(self, teachers=backbone.ahead(self.teachers, which_B, openings))


@dataclass(frozen=True, slots=True)
class Losses:
    """total: scalar to differentiate.   nll_A: detached loss of each answer token in nats."""

    total: Tensor
    nll_A: Tensor


def losses(
    backbone: PromptedBackbone,
    tuning: Tuning | Prefixes,
    batch: Batch,
    teaching: Teaching | None = None,
) -> Losses:
    """
    Return the weighted sum of losses over the batch's answer tokens.

    Only positions that predict an answer go through the output head: logits are (A, V), not
    (B, T, V). With *teaching*, the total is the sum in `Distillation`.
    """
    # The teacher goes first: a checkpointed layer is recomputed under what was chosen last.
    with torch.no_grad():
        taught_AD = answer_states(backbone, teaching.teachers, batch) if teaching else None
    hidden_AD = answer_states(backbone, tuning, batch)
    logits_AV = backbone.logits(hidden_AD)
    nll_A = functional.cross_entropy(logits_AV, batch.next_A, reduction="none")
    if teaching is None or taught_AD is None:
        return Losses(nll_A @ batch.weight_A, nll_A.detach())
    with torch.no_grad():
        taught_AV = backbone.logits(taught_AD)
    how = teaching.distillation
    loss_A = (
        how.task * nll_A
        + how.kl * kl_of(taught_AV, logits_AV, how.temperature)
        + how.hidden * distance_of(taught_AD, hidden_AD)
    )
    return Losses(loss_A @ batch.weight_A, nll_A.detach())


def answer_states(backbone: PromptedBackbone, tuning: Tuning | Prefixes, batch: Batch) -> Tensor:
    """Return the last hidden states (A, D) from which answer tokens are predicted."""
    return backbone.hidden(tuning, batch.which_B, batch.ids_BT).flatten(0, 1)[batch.at_A]


def kl_of(teacher_AV: Tensor, student_AV: Tensor, temperature: float) -> Tensor:
    """Return T² KL(teacher || student) (A,) in nats at temperature T (arXiv 1503.02531)."""
    target_AV = functional.log_softmax(teacher_AV / temperature, dim=-1)
    log_AV = functional.log_softmax(student_AV / temperature, dim=-1)
    each_AV = functional.kl_div(log_AV, target_AV, reduction="none", log_target=True)
    return temperature**2 * each_AV.sum(-1)


def distance_of(teacher_AD: Tensor, student_AD: Tensor) -> Tensor:
    """Return the squared distance (A,) of hidden states relative to the teacher's squared norm."""
    teacher_AD, student_AD = teacher_AD.float(), student_AD.float()
    return (student_AD - teacher_AD).square().mean(-1) / teacher_AD.square().mean(-1)
