"""
What every engine refuses, checked once and before anything runs.

An id past the vocabulary would read another adapter's prompt, and a penalty indexes the vocabulary
by the ids of every prompt in the batch: neither may ever reach a running engine.
"""

import math
from dataclasses import dataclass, replace
from typing import Protocol

from transformers import AutoConfig

from galenic_adapters.errors import BadFactor, BadInput, TooLong, Unsupported
from galenic_adapters.factor import Factor
from galenic_adapters.tasks.base import Choice
from galenic_server.engine.base import EngineConfig, Request, Sampling


class _BackboneShape(Protocol):
    vocab_size: int
    hidden_size: int
    max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class Border:
    """The sizes that a request is measured against."""

    vocab_size: int
    num_positions: int
    context_tokens: int

    def check(self, request: Request) -> None:
        """Raises `BadInput`, `TooLong` or `Unsupported`, naming the field."""
        self._check_ids(request)
        self._check_length(request)
        _check_sampling(request.sampling)
        if isinstance(request.constraint, Choice) and not request.constraint.labels:
            raise BadInput("constraint", "a choice needs at least one label")

    def _check_ids(self, request: Request) -> None:
        if not request.text_ids:
            raise BadInput("text", "is empty")
        for extreme in (min(request.text_ids), max(request.text_ids)):
            if not 0 <= extreme < self.vocab_size:
                raise BadInput("text", f"token id {extreme} is outside 0 to {self.vocab_size - 1}")

    def _check_length(self, request: Request) -> None:
        if request.sampling.max_tokens < 1:
            raise BadInput("max_tokens", f"is {request.sampling.max_tokens}, at least 1 is needed")
        parts = {
            "prompt": self.num_positions if request.adapter else 0,
            "text": len(request.text_ids),
            "answer": request.sampling.max_tokens,
        }
        needed = sum(parts.values())
        if needed > self.context_tokens:
            told = ", ".join(f"{count} for the {name}" for name, count in parts.items() if count)
            problem = f"needs {needed} tokens ({told}), the context holds {self.context_tokens}"
            raise TooLong("text", problem)


def _check_sampling(sampling: Sampling) -> None:
    neutral = Sampling(max_tokens=1)
    for field in ("presence_penalty", "frequency_penalty", "repetition_penalty"):
        if getattr(sampling, field) != getattr(neutral, field):
            neutral_value = getattr(neutral, field)
            raise Unsupported(field, f"cannot work beside virtual prompts, leave {neutral_value}")
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


def check_factor(config: EngineConfig, factor: Factor) -> Factor:
    """*factor* where a slot can hold it, else `BadFactor`."""
    shape = (factor.u_PR.shape[0], factor.v_RD.shape[1])
    expected = (config.metaprompt.num_positions, config.metaprompt.width)
    if shape != expected:
        raise BadFactor(f"factor of {shape} does not fit metaprompt {expected}")
    if factor.rank > config.max_rank:
        raise BadFactor(f"factor of rank {factor.rank}, a slot holds up to {config.max_rank}")
    return factor
