"""
What a batch teaches: the answers themselves and, where there are teachers, what these would say.

Dimension key:  A answer tokens   D model width   V vocabulary   K tasks
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from galenic_adapters.backbone.prompted import (
    Openings,
    Prefixes,
    PromptedBackbone,
    Tuning,
)
from galenic_adapters.training.batches import Batch
from galenic_adapters.training.recipe import Distillation


@dataclass(frozen=True, slots=True)
class Teaching:
    """Frozen teachers, numbered as the student's tasks are, and how much their word counts."""

    teachers: Tuning | Prefixes
    distillation: Distillation

    @torch.no_grad()
    def ahead(self, backbone: PromptedBackbone, which_B: Tensor, openings: Openings) -> Self:
        """The same, with what stands before these tasks' texts run through the backbone once."""
        return replace(self, teachers=backbone.ahead(self.teachers, which_B, openings))


@dataclass(frozen=True, slots=True)
class Losses:
    """total: what gradients come from.   nll_A: nats of every answer token."""

    total: Tensor
    nll_A: Tensor


def losses(
    backbone: PromptedBackbone,
    tuning: Tuning | Prefixes,
    batch: Batch,
    teaching: Teaching | None = None,
) -> Losses:
    """Weighted sums over the batch's answer tokens, of which only go through the output head."""
    hidden_AD = answer_states(backbone, tuning, batch)
    logits_AV = backbone.logits(hidden_AD)
    nll_A = functional.cross_entropy(logits_AV, batch.next_A, reduction="none")
    if teaching is None:
        return Losses(nll_A @ batch.weight_A, nll_A.detach())
    with torch.no_grad():
        taught_AD = answer_states(backbone, teaching.teachers, batch)
        taught_AV = backbone.logits(taught_AD)
    how = teaching.distillation
    loss_A = (
        how.task * nll_A
        + how.kl * kl_of(taught_AV, logits_AV, how.temperature)
        + how.hidden * distance_of(taught_AD, hidden_AD)
    )
    return Losses(loss_A @ batch.weight_A, nll_A.detach())


def answer_states(backbone: PromptedBackbone, tuning: Tuning | Prefixes, batch: Batch) -> Tensor:
    """The last hidden states (A, D) from which answer tokens are predicted."""
    return backbone.hidden(tuning, batch.which_B, batch.ids_BT).flatten(0, 1)[batch.at_A]


def kl_of(teacher_AV: Tensor, student_AV: Tensor, temperature: float) -> Tensor:
    """T² KL(teacher || student) in nats at temperature T (arXiv 1503.02531)."""
    target_AV = functional.log_softmax(teacher_AV / temperature, dim=-1)
    said_AV = functional.log_softmax(student_AV / temperature, dim=-1)
    each_AV = functional.kl_div(said_AV, target_AV, reduction="none", log_target=True)
    return temperature**2 * each_AV.sum(-1)


def distance_of(teacher_AD: Tensor, student_AD: Tensor) -> Tensor:
    """The squared difference of hidden states, relative to the teacher's own squares."""
    teacher_AD, student_AD = teacher_AD.float(), student_AD.float()
    return (student_AD - teacher_AD).square().mean(-1) / teacher_AD.square().mean(-1)
