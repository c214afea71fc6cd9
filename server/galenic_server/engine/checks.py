"""
What every engine refuses, checked once and before anything runs.

An id past the vocabulary would read another adapter's prompt, and penalties index the vocabulary by
the ids of every prompt in the batch: no engine is asked for them that is not guarded against that.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from transformers import AutoConfig

from galenic_adapters.errors import BadFactor, BadInput, TooLong, Unsupported
from galenic_adapters.factor import Factor
from galenic_adapters.tasks.base import Choice
from galenic_server.engine.contract import EngineConfig, Request, Sampling


class _BackboneShape(Protocol):
    vocab_size: int
    hidden_size: int
    max_position_embeddings: int


class Penalties(Protocol):
    """Ours, or vLLM's sampling parameters."""

    @property
    def presence_penalty(self) -> float: ...
    @property
    def frequency_penalty(self) -> float: ...
    @property
    def repetition_penalty(self) -> float: ...


NEUTRAL = {"presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0}


@dataclass(frozen=True, slots=True)
class Border:
    """
    The sizes that a request is measured against.

    is_guarded: virtual ids are kept from what indexes the vocabulary by prompt ids.
    """

    vocab_size: int
    num_positions: int
    context_tokens: int
    is_guarded: bool = True

    def check(self, request: Request, field: str = "text") -> None:
        """Raises `BadInput`, `TooLong` or `Unsupported`, naming the field (*field*: the text)."""
        max_tokens = request.sampling.max_tokens
        self.check_text(request.text_ids, request.adapter, max_tokens, field)
        self.check_penalties(request.sampling)
        _check_sampling(request.sampling)
        if isinstance(request.constraint, Choice) and not request.constraint.labels:
            raise BadInput("constraint", "a choice needs at least one label")

    def check_text(
        self, ids: Sequence[int], adapter: str | None, num_answer: int, field: str = "text"
    ) -> None:
        """Check that *ids* are the vocabulary's and fit the context with prompt and answer."""
        self._check_ids(ids, field)
        if num_answer < 1:
            raise BadInput("max_tokens", f"is {num_answer}, at least 1 is needed")
        if num_answer > self.room(len(ids), adapter):
            parts = {
                "of text": len(ids),
                "of the adapter's prompt": self._num_virtual(adapter),
                "for the answer": num_answer,
            }
            told = ", ".join(f"{count:,} {what}" for what, count in parts.items() if count)
            needed = f"needs {sum(parts.values()):,} tokens ({told})"
            raise TooLong(field, f"{needed}; the context holds {self.context_tokens:,}")

    def check_penalties(self, sampling: Penalties) -> None:
        """Whether this engine can take what *sampling* asks of the tokens of a prompt."""
        if self.is_guarded:
            return
        for field, neutral in NEUTRAL.items():
            if getattr(sampling, field) != neutral:
                raise Unsupported(field, f"cannot work on this engine yet, leave {neutral}")
        if getattr(sampling, "prompt_logprobs", None) is not None:  # vLLM's only
            raise Unsupported("echo", "with logprobs cannot work on this engine yet")

    def room(self, num_ids: int, adapter: str | None) -> int:
        """Tokens that are left for the answer to a text of *num_ids*."""
        return self.context_tokens - num_ids - self._num_virtual(adapter)

    def _num_virtual(self, adapter: str | None) -> int:
        return self.num_positions if adapter else 0

    def _check_ids(self, ids: Sequence[int], field: str) -> None:
        if not ids:
            raise BadInput(field, "is empty")
        for extreme in (min(ids), max(ids)):
            if not 0 <= extreme < self.vocab_size:
                raise BadInput(field, f"token id {extreme} is outside 0 to {self.vocab_size - 1}")


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


def fit(config: EngineConfig) -> tuple[EngineConfig, Border]:
    """
    *config* with its context cut to what the backbone holds, and the border that follows from both.

    Raises `BadFactor` where the metaprompt has another width than the backbone.
    """
    shape: _BackboneShape = AutoConfig.from_pretrained(config.backbone).get_text_config()
    width = config.metaprompt.width
    if width != shape.hidden_size:
        raise BadFactor(f"metaprompt is {width} wide, the backbone {shape.hidden_size}")
    context = min(config.context_tokens, shape.max_position_embeddings)
    border = Border(shape.vocab_size, config.metaprompt.num_positions, context)
    return replace(config, context_tokens=context), border


def fitting(config: EngineConfig, factors: Mapping[str, Factor]) -> dict[str, Factor]:
    """Those of *factors* that a slot can hold."""
    fit = {}
    for digest, factor in factors.items():
        with suppress(BadFactor):
            fit[digest] = check_factor(config, factor)
    return fit


def check_factor(config: EngineConfig, factor: Factor) -> Factor:
    """*factor* where a slot can hold it, else `BadFactor`."""
    shape = (factor.u_PR.shape[0], factor.v_RD.shape[1])
    expected = (config.metaprompt.num_positions, config.metaprompt.width)
    if shape != expected:
        raise BadFactor(f"factor of {shape} does not fit metaprompt {expected}")
    if factor.rank > config.max_rank:
        raise BadFactor(f"factor of rank {factor.rank}, a slot holds up to {config.max_rank}")
    return factor
