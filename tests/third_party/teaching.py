"""
A tiny backbone that has learned one reply by heart, so that something sensible can be read in it.

Dimension key:  P prompt positions   T tokens   D model width   V vocabulary
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

LEARNED = 0.005  # of the loss: every token of the reply is all but certain
MOST_STEPS = 400


@dataclass(frozen=True)
class Lesson:
    """After *prompt_PD*, if any, and *text_ids* comes *reply_ids*."""

    prompt_PD: Tensor | None
    text_ids: Sequence[int]
    reply_ids: Sequence[int]


def teach(folder: str, lessons: Sequence[Lesson]) -> None:
    """Overwrite the model in *folder* with one that knows its *lessons*."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(MOST_STEPS):
        loss = torch.stack([_loss(model, lesson) for lesson in lessons]).mean()
        if loss < LEARNED:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < LEARNED, f"not learned: {loss}"
    model.eval().save_pretrained(folder)


def _loss(model: torch.nn.Module, lesson: Lesson) -> Tensor:
    ids_T = torch.tensor([*lesson.text_ids, *lesson.reply_ids])
    rows_TD = model.get_input_embeddings()(ids_T)
    if lesson.prompt_PD is not None:
        rows_TD = torch.cat([lesson.prompt_PD, rows_TD])
    num_reply = len(lesson.reply_ids)
    logits_TV = model(inputs_embeds=rows_TD[None], logits_to_keep=num_reply + 1).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits_TV, ids_T[-num_reply:])
