"""
Greedy answers of a prompted backbone, many examples at a time, under the task's own constraint.

Dimension key:  P prompt positions   D model width   B examples   T text positions   V vocabulary
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from galenic_adapters.chat import encode
from galenic_adapters.constraints import Constrainer, logprob_of
from galenic_adapters.tasks.base import Choice, Completion, Example, Task
from galenic_adapters.training.prompted import PromptedBackbone


@torch.inference_mode()
def answer_all(
    backbone: PromptedBackbone,
    prompt_PD: Tensor | None,
    task: Task[Any, Any],
    examples: Sequence[Example],
    *,
    batch_size: int = 32,
    max_tokens: int | None = None,
) -> list[Completion]:
    """The greedy completion of every example, in order; without a prompt, the bare backbone's."""
    tokenizer = backbone.tokenizer
    constrainer = Constrainer(tokenizer, backbone.vocab_size, backbone.end_tokens)
    asked = [encode(tokenizer, task.render(example.fields)) for example in examples]
    order = sorted(range(len(examples)), key=lambda i: len(asked[i]))
    answers: dict[int, Completion] = {}
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        rows = [_Row(task, examples[i], asked[i], constrainer, max_tokens) for i in chosen]
        _decode(backbone, prompt_PD, rows)
        answers.update((i, row.completion(tokenizer)) for i, row in zip(chosen, rows, strict=True))
    return [answers[i] for i in range(len(examples))]


class _Row:
    """One answer on its way."""

    def __init__(
        self,
        task: Task[Any, Any],
        example: Example,
        question: list[int],
        constrainer: Constrainer,
        max_tokens: int | None,
    ) -> None:
        constraint = task.constraint(example.fields)
        self.question = question
        self.room = max_tokens or task.max_tokens(example.fields)
        self.constrainer = constrainer
        self.matcher = constrainer.begin(constraint) if constraint else None
        self.logprob = 0.0 if isinstance(constraint, Choice) else None
        self.ids: list[int] = []
        self.finish: str | None = None

    def take(self, logits_V: Tensor, end_tokens: list[int]) -> int:
        """Pick the next token and note what it means for this answer."""
        if self.matcher:
            logits_V = self.constrainer.mask(logits_V, self.matcher)
        token = int(logits_V.argmax())
        if self.logprob is not None:
            self.logprob += logprob_of(logits_V, token)
        if self.matcher:
            self.matcher.accept_token(token)
        if token in end_tokens:
            self.finish = "stop"
        else:
            self.ids.append(token)
            if len(self.ids) == self.room:
                self.finish = "length"
        return token

    def completion(self, tokenizer: Any) -> Completion:
        assert self.finish is not None
        return Completion(
            tokenizer.decode(self.ids, skip_special_tokens=True),
            self.finish,
            num_prompt_tokens=len(self.question),
            num_completion_tokens=len(self.ids),
            logprob=self.logprob,
        )


def _decode(backbone: PromptedBackbone, prompt_PD: Tensor | None, rows: list[_Row]) -> None:
    model, ends = backbone.model, backbone.end_tokens
    num_positions = 0 if prompt_PD is None else prompt_PD.shape[0]
    longest = max(len(row.question) for row in rows)
    ids_BT = torch.tensor([[ends[0]] * (longest - len(r.question)) + r.question for r in rows])
    pads_B = torch.tensor([longest - len(row.question) for row in rows])
    seen_BT = torch.ones(len(rows), num_positions + longest, dtype=torch.long)
    for row, pads in enumerate(pads_B.tolist()):
        seen_BT[row, num_positions : num_positions + pads] = 0
    at_BT = (torch.arange(num_positions, num_positions + longest) - pads_B[:, None]).clamp(min=0)
    cache = None
    if prompt_PD is not None:
        prompt = prompt_PD.to(model.dtype)[None]
        cache = model.model(inputs_embeds=prompt, use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(rows))
    while True:
        out = model.model(
            input_ids=ids_BT,
            position_ids=at_BT,
            attention_mask=seen_BT,
            past_key_values=cache,
            use_cache=True,
        )
        cache = out.past_key_values
        logits_BV = model.lm_head(out.last_hidden_state[:, -1]).float()
        taken = [row.take(logits_V, ends) for row, logits_V in zip(rows, logits_BV, strict=True)]
        going = [i for i, row in enumerate(rows) if not row.finish]
        if not going:
            return
        if len(going) < len(rows):  # the others are answered: they cost nothing from here on
            cache.batch_select_indices(torch.tensor(going))
            rows = [rows[i] for i in going]
        ids_BT = torch.tensor([taken[i] for i in going])[:, None]
        at_BT = at_BT[going, -1:] + 1
        seen_BT = torch.cat([seen_BT[going], torch.ones(len(going), 1, dtype=torch.long)], dim=1)
