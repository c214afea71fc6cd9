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

from galenic_adapters.backbone.scaling import shapes
from galenic_adapters.errors import BadFactor, BadInput, TooLong, Unsupported
from galenic_adapters.factor import Composed, Factor
from galenic_adapters.tasks.base import Choice
from galenic_server.engine.contract import Adapter, EngineConfig, Request, Sampling


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

    def check(self, request: Request) -> None:
        """Raises `BadInput`, `TooLong` or `Unsupported`, naming the field."""
        self.check_text(request.text_ids, request.adapter, request.sampling.max_tokens)
        self.check_penalties(request.sampling)
        _check_sampling(request.sampling)
        if isinstance(request.constraint, Choice) and not request.constraint.labels:
            raise BadInput("constraint", "a choice needs at least one label")

    def check_text(
        self, ids: Sequence[int], adapter: str | None, num_answer: int, field: str = "text"
    ) -> None:
        """Whether *ids* are the vocabulary's and fit the context with prompt and answer."""
        self._check_ids(ids, field)
        if num_answer < 1:
            raise BadInput("max_tokens", f"is {num_answer}, at least 1 is needed")
        if num_answer > self.room(len(ids), adapter):
            parts = {
                "prompt": self._num_virtual(adapter),
                "text": len(ids),
                "answer": num_answer,
            }
            told = ", ".join(f"{count} for the {name}" for name, count in parts.items() if count)
            needed = f"needs {sum(parts.values())} tokens ({told})"
            raise TooLong(field, f"{needed}, the context holds {self.context_tokens}")

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


@dataclass(frozen=True, slots=True)
class Capacity:
    """
    The sizes that an adapter is measured against.

    prompt: positions and width.   max_rank: of a factor.   scales: layers and width of each place
    that is served.
    """

    prompt: tuple[int, int]
    max_rank: int
    scales: Mapping[str, tuple[int, int]]

    def check(self, adapter: Adapter) -> None:
        """Raises `BadFactor` where no slot can hold *adapter*."""
        if isinstance(adapter, Factor):
            self._check_factor(adapter)
        else:
            self._check_composed(adapter)

    def fitting(self, adapters: Mapping[str, Adapter]) -> dict[str, Adapter]:
        """Those of *adapters* that a slot can hold."""
        fit = {}
        for digest, adapter in adapters.items():
            with suppress(BadFactor):
                self.check(adapter)
                fit[digest] = adapter
        return fit

    def _check_factor(self, factor: Factor) -> None:
        shape = (factor.u_PR.shape[0], factor.v_RD.shape[1])
        if shape != self.prompt:
            raise BadFactor(f"factor of {shape} does not fit metaprompt {self.prompt}")
        if factor.rank > self.max_rank:
            raise BadFactor(f"factor of rank {factor.rank}, a slot holds up to {self.max_rank}")

    def _check_composed(self, composed: Composed) -> None:
        if composed.rows_PD is not None or composed.prefix is not None:
            raise BadFactor("this engine takes prompts as factors of the metaprompt only")
        for place, scale_LW in composed.scales.items():
            if place not in self.scales:
                served = ", ".join(self.scales) or "none"
                raise BadFactor(f"a scale of {place!r}, the places served are {served}")
            if tuple(scale_LW.shape) != self.scales[place]:
                raise BadFactor(
                    f"a scale of {place!r} is {tuple(scale_LW.shape)}, "
                    f"the backbone's layers and width are {self.scales[place]}"
                )


def fit(config: EngineConfig) -> tuple[EngineConfig, Border, Capacity]:
    """
    *config* with its context cut to what the backbone holds, and the sizes that follow from both.

    Raises `BadFactor` where the metaprompt has another width than the backbone, or a place that
    adapters may scale does not exist.
    """
    shape: _BackboneShape = AutoConfig.from_pretrained(config.backbone).get_text_config()
    width = config.metaprompt.width
    if width != shape.hidden_size:
        raise BadFactor(f"metaprompt is {width} wide, the backbone {shape.hidden_size}")
    context = min(config.context_tokens, shape.max_position_embeddings)
    border = Border(shape.vocab_size, config.metaprompt.num_positions, context)
    scales = shapes(shape)
    if unknown := set(config.places) - scales.keys():
        raise BadFactor(f"no place is called {min(unknown)!r}, only {', '.join(scales)}")
    capacity = Capacity(
        prompt=(config.metaprompt.num_positions, width),
        max_rank=config.max_rank,
        scales={place: scales[place] for place in config.places},
    )
    return replace(config, context_tokens=context), border, capacity
