"""
Decodes greedily with a tuned backbone, many tasks and examples in one batch, each under its task's
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
from galenic_adapters.backbone.prefixes import opening_of, positions_of
from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.backbone.tuning import Fixed, Tuning, Untuned
from galenic_adapters.factor import Composed
from galenic_adapters.tasks.base import Completion, Example, Task
from galenic_adapters.tasks.confidence import line_logprobs

CPU_TOKENS = 16384
"""The most tokens (question and answer, with padding) of one batch on a CPU."""
GPU_MEMORY = 0.4
"""The share of free memory for keys and values, half of it for the copy made when they grow."""
WASTE = 0.125
"""Finished examples leave the batch once they are more than this share of it."""


@dataclass(frozen=True, slots=True)
class Question:
    """Pairs an example with the number of the task in the `Tuning` that answers it."""

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
    """Complete every example greedily, in order; without *composed*, by the untuned backbone."""
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
    """Complete every question greedily; completions are returned in order."""
    rows = [_Row(question, backbone.tokenizer, max_tokens) for question in asked]
    matching = xgrammar.BatchGrammarMatcher()  # on several threads
    with backbone.answering():
        for group in _groups(rows, _room(backbone), is_ragged=not backbone.has_window):
            for row in group:
                row.begin(backbone.constrainer)
            _decode(backbone, tuning, group, matching)
    return [row.completion(backbone.tokenizer) for row in rows]


class _Row:
    """Holds one question and its answer so far."""

    def __init__(self, question: Question, tokenizer: Any, max_tokens: int | None) -> None:
        task, fields = question.task, question.example.fields
        self.which = question.which
        self.constraint = task.constraint(fields)
        self.question = encode(tokenizer, task.render(fields))
        self.room = max_tokens or task.max_tokens(fields)
        self.matcher: xgrammar.GrammarMatcher | None = None
        self.logprobs: list[tuple[int, float]] = []
        self.ids: list[int] = []
        self.finish: str | None = None

    def begin(self, constrainer: Constrainer) -> None:
        if self.constraint:
            self.matcher = constrainer.begin(self.constraint)

    def take(self, token: int, logprob: float, end_tokens: list[int]) -> None:
        """Append the next token; the answer finishes at an end token or its longest length."""
        self.logprobs.append((token, logprob))
        if token in end_tokens:
            self.finish = "stop"
        else:
            self.ids.append(token)
            if len(self.ids) == self.room:
                self.finish = "length"

    def completion(self, tokenizer: Any) -> Completion:
        assert self.finish is not None
        said = ((tokenizer.decode([token]), logprob) for token, logprob in self.logprobs)
        return Completion(
            tokenizer.decode(self.ids, skip_special_tokens=True),
            self.finish,
            num_prompt_tokens=len(self.question),
            num_completion_tokens=len(self.ids),
            line_logprobs=line_logprobs(said) if self.constraint else (),
        )


def _room(backbone: PromptedBackbone) -> int:
    """Return the number of tokens whose keys and values may be held at once."""
    if backbone.device.type != "cuda":
        return CPU_TOKENS
    config = backbone.model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    values = 2 * config.num_hidden_layers * config.num_key_value_heads * width
    free_bytes, _ = torch.cuda.mem_get_info(backbone.device)
    return int(GPU_MEMORY / 2 * free_bytes / (values * backbone.model.dtype.itemsize))


def _groups(rows: Sequence[_Row], room: int, *, is_ragged: bool) -> Iterator[list[_Row]]:
    """
    Yield batches of rows of similar length, of at most *room* tokens with padding, or of one row.

    If not *is_ragged*, a batch has no padding: its rows have one task and one length (for backbones
    with a sliding window, which counts columns, padding included).
    """

    def shape(row: _Row) -> tuple[int, int, int]:
        return row.room, len(row.question), row.which

    group: list[_Row] = []
    for row in sorted(rows, key=shape):
        widest = max(len(r.question) for r in [*group[-1:], row]) + row.room
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
    """
    Holds a batch while it is decoded: the KV cache and the next tokens.

    ids_BT: the tokens to run next: padded questions first, then one token each.   seen_BT: the
    attention mask over all columns so far.   at_BT: the positions of ids_BT.
    """

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
        # Padded on the left, so that every row's next token is in the same column.
        padded = [[filler] * (longest - len(question)) + question for question in questions]
        self.ids_BT = torch.tensor(padded, device=self.device)
        self.which_B = torch.tensor([row.which for row in rows], device=self.device)
        prefixes = backbone.prefixes(tuning, self.which_B, openings)
        backbone.choose(tuning, self.which_B)
        self.cache: Any = prefixes and prefixes.cache(self.which_B)
        pads_B1 = longest - torch.tensor([[len(q)] for q in questions], device=self.device)
        self.seen_BT = (torch.arange(longest, device=self.device) >= pads_B1).long()
        if prefixes:
            self.seen_BT = torch.cat([prefixes.seen(self.which_B), self.seen_BT], dim=1)
        self.at_BT = positions_of(self.seen_BT)[:, -longest:]

    def step(self) -> Tensor:
        """Run the backbone on the next tokens; returns the last hidden states (B, D)."""
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
        """Set the next token of every row."""
        self.ids_BT = torch.tensor(tokens, device=self.device)[:, None]
        self.at_BT = self.at_BT[:, -1:] + 1
        self.seen_BT = torch.cat([self.seen_BT, self.seen_BT.new_ones(len(tokens), 1)], dim=1)

    def keep(self, going: list[int]) -> None:
        """Keep only the rows *going*; finished ones leave the batch."""
        chosen_B = torch.tensor(going, device=self.device)
        self.cache.batch_select_indices(chosen_B)
        self.at_BT, self.seen_BT = self.at_BT[chosen_B], self.seen_BT[chosen_B]
        self.which_B = self.which_B[chosen_B]
        self.backbone.choose(self.tuning, self.which_B)


def _choose(
    logits_BV: Tensor, rows: Sequence[_Row], matching: xgrammar.BatchGrammarMatcher
) -> tuple[list[int], list[float]]:
    """
    Return each row's likeliest token that its constraint allows, and its log-probability.

    The log-probability is among allowed tokens, in nats. Matchers of unfinished rows advance.
    """
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
    """Unpack xgrammar's 32-bit words into booleans (B, V) on the logits' device."""
    bits_32 = torch.arange(32, dtype=torch.int32, device=like_BV.device)
    words_BW1 = mask_BW.to(like_BV.device, non_blocking=True)[:, :, None]
    return ((words_BW1 >> bits_32) & 1).bool().flatten(1)[:, : like_BV.shape[1]]
