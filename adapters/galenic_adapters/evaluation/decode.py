"""
Greedy answers of a tuned backbone, many tasks and examples side by side, each under its task's own
constraint.

Dimension key:  P prompt positions   B examples   T text positions   V vocabulary
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import xgrammar
from torch import Tensor

from galenic_adapters.backbone.constraints import Constrainer
from galenic_adapters.backbone.encode import encode
from galenic_adapters.backbone.prompted import (
    Fixed,
    PromptedBackbone,
    Tuning,
    Untuned,
    opening_of,
    positions_of,
)
from galenic_adapters.factor import Composed
from galenic_adapters.tasks.base import Choice, Completion, Example, Task

CPU_TOKENS = 16384
"""Prompt, question and answer of all examples that are decoded at a time."""
GPU_MEMORY = 0.4
"""The share of the free memory that may hold keys and values; growing them takes as much again."""
WASTE = 0.125
"""The share of answered examples from which on it pays to take them out of the batch."""


@dataclass(frozen=True, slots=True)
class Question:
    """An example, asked under what task number *which* has learned."""

    which: int
    task: Task[Any, Any]
    example: Example


def answer_all(
    backbone: PromptedBackbone,
    composed: Composed | None,
    task: Task[Any, Any],
    examples: Sequence[Example],
    *,
    max_tokens: int | None = None,
) -> list[Completion]:
    """The greedy completion of every example, in order; without an adapter, the bare backbone's."""
    tuning = Untuned() if composed is None else Fixed([composed])
    asked = [Question(0, task, example) for example in examples]
    return answer(backbone, tuning, asked, max_tokens=max_tokens)


@torch.inference_mode()
def answer(
    backbone: PromptedBackbone,
    tuning: Tuning,
    asked: Sequence[Question],
    *,
    max_tokens: int | None = None,
) -> list[Completion]:
    """The greedy completion of every question, in order."""
    rows = [_Row(question, backbone.tokenizer, max_tokens) for question in asked]
    matching = xgrammar.BatchGrammarMatcher()  # on several threads
    with backbone.answering():
        for group in _groups(rows, _room(backbone), is_ragged=not backbone.has_window):
            for row in group:
                row.begin(backbone.constrainer)
            _decode(backbone, tuning, group, matching)
    return [row.completion(backbone.tokenizer) for row in rows]


class _Row:
    """One answer on its way."""

    def __init__(self, question: Question, tokenizer: Any, max_tokens: int | None) -> None:
        task, fields = question.task, question.example.fields
        self.which = question.which
        self.constraint = task.constraint(fields)
        self.question = encode(tokenizer, task.render(fields))
        self.room = max_tokens or task.max_tokens(fields)
        self.matcher: xgrammar.GrammarMatcher | None = None
        self.logprob = 0.0 if isinstance(self.constraint, Choice) else None
        self.ids: list[int] = []
        self.finish: str | None = None

    def begin(self, constrainer: Constrainer) -> None:
        if self.constraint:
            self.matcher = constrainer.begin(self.constraint)

    def take(self, token: int, logprob: float, end_tokens: list[int]) -> None:
        """Note the next token and what it means for this answer."""
        if self.logprob is not None:
            self.logprob += logprob
        if token in end_tokens:
            self.finish = "stop"
        else:
            self.ids.append(token)
            if len(self.ids) == self.room:
                self.finish = "length"

    def completion(self, tokenizer: Any) -> Completion:
        assert self.finish is not None
        return Completion(
            tokenizer.decode(self.ids, skip_special_tokens=True),
            self.finish,
            num_prompt_tokens=len(self.question),
            num_completion_tokens=len(self.ids),
            logprob=self.logprob,
        )


def _room(backbone: PromptedBackbone) -> int:
    """How many tokens' keys and values may be held at a time."""
    if backbone.device.type != "cuda":
        return CPU_TOKENS
    config = backbone.model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    values = 2 * config.num_hidden_layers * config.num_key_value_heads * width
    free_bytes, _ = torch.cuda.mem_get_info(backbone.device)
    return int(GPU_MEMORY / 2 * free_bytes / (values * backbone.model.dtype.itemsize))


def _groups(rows: Sequence[_Row], room: int, *, is_ragged: bool) -> Iterator[list[_Row]]:
    """
    Like lengths together, so that little of a batch is padding; each at least one row. Those that
    are not ragged have none, their rows being of one task and length.
    """

    def shape(row: _Row) -> tuple[int, int, int]:
        return row.room, len(row.question), row.which

    group: list[_Row] = []
    for row in sorted(rows, key=shape):
        widest = max(len(one.question) for one in [*group[-1:], row]) + row.room
        is_alike = not group or is_ragged or shape(row) == shape(group[0])
        if group and not (is_alike and widest * (len(group) + 1) <= room):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _decode(
    backbone: PromptedBackbone,
    tuning: Tuning,
    rows: list[_Row],
    matching: xgrammar.BatchGrammarMatcher,
) -> None:
    ends = backbone.end_tokens
    state = _State(backbone, tuning, rows)
    while True:
        tokens, logprobs = _choose(backbone.logits(state.step()), rows, matching)
        for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
            if not row.finish:
                row.take(token, logprob, ends)
        going = [i for i, row in enumerate(rows) if not row.finish]
        if not going:
            return
        if len(rows) - len(going) > WASTE * len(rows):
            rows = [rows[i] for i in going]
            tokens = [tokens[i] for i in going]
            state.keep(going)
        state.push(tokens)


class _State:
    """The backbone in the middle of a batch: keys and values, and the tokens that come next."""

    def __init__(self, backbone: PromptedBackbone, tuning: Tuning, rows: list[_Row]) -> None:
        self.backbone, self.tuning, self.device = backbone, tuning, backbone.device
        self.model = backbone.model
        openings = {
            which: opening_of([row.question for row in rows if row.which == which])
            for which in {row.which for row in rows}
        }
        questions = [row.question[len(openings[row.which]) :] for row in rows]
        longest = max(map(len, questions))
        filler = backbone.end_tokens[0]
        padded = [[filler] * (longest - len(one)) + one for one in questions]
        self.ids_BT = torch.tensor(padded, device=self.device)
        self.which_B = torch.tensor([row.which for row in rows], device=self.device)
        prefixes = backbone.prefixes(tuning, self.which_B, openings)
        backbone.choose(tuning, self.which_B)
        self.cache: Any = prefixes and prefixes.cache(self.which_B)
        pads_B1 = longest - torch.tensor([[len(one)] for one in questions], device=self.device)
        self.seen_BT = (torch.arange(longest, device=self.device) >= pads_B1).long()
        if prefixes:
            self.seen_BT = torch.cat([prefixes.seen(self.which_B), self.seen_BT], dim=1)
        self.at_BT = positions_of(self.seen_BT)[:, -longest:]

    def step(self) -> Tensor:
        """The last hidden state (B, D) of each row."""
        out = self.model.model(
            input_ids=self.ids_BT,
            position_ids=self.at_BT,
            attention_mask=self.seen_BT,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = out.past_key_values
        last_BD: Tensor = out.last_hidden_state[:, -1]
        return last_BD

    def push(self, tokens: list[int]) -> None:
        """These come next."""
        self.ids_BT = torch.tensor(tokens, device=self.device)[:, None]
        self.at_BT = self.at_BT[:, -1:] + 1
        self.seen_BT = torch.cat([self.seen_BT, self.seen_BT.new_ones(len(tokens), 1)], dim=1)

    def keep(self, going: list[int]) -> None:
        """The others are answered: they cost nothing from here on."""
        chosen_B = torch.tensor(going, device=self.device)
        self.cache.batch_select_indices(chosen_B)
        self.at_BT, self.seen_BT = self.at_BT[chosen_B], self.seen_BT[chosen_B]
        self.which_B = self.which_B[chosen_B]
        self.backbone.choose(self.tuning, self.which_B)


def _choose(
    logits_BV: Tensor, rows: Sequence[_Row], matching: xgrammar.BatchGrammarMatcher
) -> tuple[list[int], list[float]]:
    """The likeliest token that each row's constraint allows, and its log-probability there."""
    bound = [i for i, row in enumerate(rows) if row.matcher and not row.finish]
    matchers = [rows[i].matcher for i in bound]
    if bound:
        mask_BW = xgrammar.allocate_token_bitmask(len(rows), logits_BV.shape[1])
        matching.batch_fill_next_token_bitmask(matchers, mask_BW, bound)
        logits_BV = logits_BV.masked_fill(~_unpacked(mask_BW, logits_BV), float("-inf"))
    best_B = logits_BV.argmax(-1)
    logprob_B = logits_BV.gather(1, best_B[:, None])[:, 0] - logits_BV.logsumexp(-1)
    tokens: list[int] = best_B.tolist()
    if bound:
        matching.batch_accept_token(matchers, [tokens[i] for i in bound])
    return tokens, logprob_B.tolist()


def _unpacked(mask_BW: Tensor, like_BV: Tensor) -> Tensor:
    """xgrammar's words of 32 bits as booleans (B, V), on the logits' device."""
    bits_32 = torch.arange(32, dtype=torch.int32, device=like_BV.device)
    words_BW1 = mask_BW.to(like_BV.device, non_blocking=True)[:, :, None]
    return ((words_BW1 >> bits_32) & 1).bool().flatten(1)[:, : like_BV.shape[1]]
