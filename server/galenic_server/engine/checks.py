"""
The checks of every engine, made once and before anything runs.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from transformers import AutoConfig, PretrainedConfig

from galenic_adapters.backbone.weights import shape_of
from galenic_adapters.errors import BadFactor, BadInput, TooLong
from galenic_adapters.factor import Composed
from galenic_adapters.tasks.base import Choice
from galenic_server.engine import capacity
from galenic_server.engine.contract import EngineConfig, Request, Sampling
from galenic_server.engine.slots import Prompt

MOST_LOGITS = 1 << 26
"""Numbers over the vocabulary for one request's text; 670 MB with what is computed of them."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Holds the sizes that a request is checked against."""

    vocab_size: int
    context_tokens: int

    def check(self, request: Request, num_positions: int = 0) -> None:
        """Raise `BadInput` or `TooLong`, naming the field. num_positions: of the prompt."""
        self.check_text(request.text_ids, request.text_field)
        self.check_length(
            num_positions, len(request.text_ids), request.sampling.max_tokens, request.text_field
        )
        _check_sampling(request.sampling)
        if isinstance(request.constraint, Choice) and not request.constraint.labels:
            raise BadInput("constraint", "a choice needs at least one label")

    def check_text(self, ids: Sequence[int], field: str) -> None:
        """Check that there are token ids, all of the vocabulary."""
        if not ids:
            raise BadInput(field, "is empty")
        for extreme in (min(ids), max(ids)):
            if not 0 <= extreme < self.vocab_size:
                raise BadInput(field, f"token id {extreme} is outside 0 to {self.vocab_size - 1}")

    def check_length(self, num_positions: int, num_text: int, num_answer: int, field: str) -> None:
        """Check that prompt, text and answer fit the context."""
        if num_answer < 1:
            raise BadInput("max_tokens", f"is {num_answer}, at least 1 is needed")
        if num_answer > self.room(num_positions, num_text):
            parts = {
                "of text": num_text,
                "of the adapter's prompt": num_positions,
                "for the answer": num_answer,
            }
            listed = ", ".join(f"{count:,} {what}" for what, count in parts.items() if count)
            needed = f"needs {sum(parts.values()):,} tokens ({listed})"
            raise TooLong(field, f"{needed}; the context holds {self.context_tokens:,}")

    def check_logprobs(self, num_text: int, field: str) -> None:
        """
        Raise `TooLong` for a text whose own log-probabilities take too much memory at once.

        vLLM computes those of all its tokens over the whole vocabulary side by side, beside the
        memory that it has counted on: an engine that runs out of it dies.
        """
        most = MOST_LOGITS // self.vocab_size
        if num_text > most:
            raise TooLong(field, f"is {num_text:,} tokens; with its log-probabilities, {most:,}")

    def room(self, num_positions: int, num_text: int) -> int:
        """Return the number of tokens left for the answer."""
        return self.context_tokens - num_positions - num_text


def _check_sampling(sampling: Sampling) -> None:
    for field, lowest, highest in (
        ("presence_penalty", -2.0, 2.0),
        ("frequency_penalty", -2.0, 2.0),
        ("repetition_penalty", 0.01, 10.0),
    ):
        value = getattr(sampling, field)
        if not lowest <= value <= highest:
            raise BadInput(field, f"is {value}, not within {lowest} to {highest}")
    if not (math.isfinite(sampling.temperature) and 0 <= sampling.temperature <= 10):
        raise BadInput("temperature", f"is {sampling.temperature}, not within 0 to 10")
    if not 0 < sampling.top_p <= 1:
        raise BadInput("top_p", f"is {sampling.top_p}, not above 0 and up to 1")
    if sampling.seed is not None and not 0 <= sampling.seed < 2**63:
        raise BadInput("seed", f"is {sampling.seed}, not within 0 to 2**63 - 1")
    if "" in sampling.stop:
        raise BadInput("stop", "holds an empty string")


@dataclass(frozen=True, slots=True)
class Capacity:
    """
    Holds the sizes that an adapter is checked against.

    width: of prompt rows.   prefix: (L, W) of keys and of values.   scales: (L, W) of each place
    that is served.   num_positions: the longest prompt.   prompt_bytes: of all prompts together.
    number_bytes: size of a number in the engine's dtype.
    """

    width: int
    prefix: tuple[int, int]
    scales: Mapping[str, tuple[int, int]]
    num_positions: int
    prompt_bytes: int
    number_bytes: int

    def check(self, adapter: Composed) -> None:
        """Raise `BadFactor` if this engine cannot hold *adapter*."""
        for place, scale_LW in adapter.scales.items():
            if place not in self.scales:
                served = ", ".join(self.scales) or "none"
                raise BadFactor(f"a scale of {place!r}, the places served are {served}")
            _check_shape(f"a scale of {place!r}", scale_LW.shape, self.scales[place])
        self._check_prompt(adapter)

    def fitting(self, adapters: Mapping[str, Composed]) -> dict[str, Composed]:
        """Return the adapters that this engine can hold."""
        fit = {}
        for digest, adapter in adapters.items():
            with suppress(BadFactor):
                self.check(adapter)
                fit[digest] = adapter
        return fit

    def prompt_of(self, adapter: Composed) -> Prompt | None:
        """Return *adapter*'s prompt with its size, if it has one."""
        if not adapter.prompt:
            return None
        num_layers, width = self.prefix
        num_bytes = 2 * num_layers * width * adapter.num_positions * self.number_bytes
        return Prompt(adapter.prompt_digest, adapter.num_positions, num_bytes)

    def _check_prompt(self, adapter: Composed) -> None:
        num_layers, width = self.prefix
        for name, tensor in adapter.prompt.items():
            whole = (num_layers, adapter.num_positions, width)
            rows = (adapter.num_positions, self.width)
            _check_shape(f"the prompt's {name}", tensor.shape, rows if name == "rows" else whole)
        if (prompt := self.prompt_of(adapter)) is None:
            return
        if not 0 < prompt.num_positions <= self.num_positions:
            raise BadFactor(
                f"a prompt of {prompt.num_positions} positions, not 1 to {self.num_positions}"
            )
        if prompt.num_bytes > self.prompt_bytes:
            raise BadFactor(
                f"a prompt takes {prompt.num_bytes:,} bytes, all may take {self.prompt_bytes:,}"
            )


def _check_shape(name: str, shape: Sequence[int], expected: Sequence[int]) -> None:
    if tuple(shape) != tuple(expected):
        raise BadFactor(f"{name} is {tuple(shape)}, the backbone's is {tuple(expected)}")


def fit(config: EngineConfig) -> tuple[EngineConfig, Bounds, Capacity]:
    """
    Complete *config* for its backbone, and return it with the sizes that follow from both.

    Raises `BadFactor` if a place in *config* does not exist.
    """
    shape: PretrainedConfig = AutoConfig.from_pretrained(config.backbone).get_text_config()
    scales = shape_of(shape).scale_shapes()
    if unknown := set(config.places) - scales.keys():
        raise BadFactor(f"no place is called {min(unknown)!r}, only {', '.join(scales)}")
    context = min(config.context_tokens, shape.max_position_embeddings)
    sizes = Capacity(
        width=shape.hidden_size,
        prefix=scales["k"],
        scales={place: scales[place] for place in config.places},
        num_positions=context - 2,  # and one of text, and one of an answer
        prompt_bytes=config.prompt_bytes or capacity.prompt_bytes(),
        number_bytes=getattr(torch, config.dtype).itemsize,
    )
    num_slots = config.num_slots or capacity.num_slots(sizes.scales.values(), sizes.number_bytes)
    config = replace(
        config, context_tokens=context, num_slots=num_slots, prompt_bytes=sizes.prompt_bytes
    )
    return config, Bounds(shape.vocab_size, context), sizes
