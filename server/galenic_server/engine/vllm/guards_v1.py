"""
What vLLM's runner must not meet, kept from it.

Virtual ids, where it indexes the vocabulary by the ids of a prompt: penalties count the prompt ids
of the whole batch as soon as one request has any, and the log-probabilities of a prompt are looked
up by its ids. An id past the vocabulary would end the engine there. The runner pads with the
vocabulary's size, which it counts for nobody, so that is what it is shown in their place.

A seed's generator, where a long prompt is read in parts: the token drawn after each part but the
last is thrown away, and the generator wound back, by an offset that CPU generators do not have.
That too would end the engine.

Dimension key:  B requests of a batch   T tokens
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from vllm.v1.worker.gpu_input_batch import InputBatch


def guard(runner: Any) -> bool:
    """Whether *runner* is of the kind that is known here; then it is guarded from now on."""
    batch = getattr(runner, "input_batch", None)
    if not isinstance(batch, InputBatch) or not hasattr(runner, "_get_prompt_logprobs_dict"):
        return False
    _guard_penalties(batch)
    _guard_prompt_logprobs(runner, batch.vocab_size)
    if runner.device.type == "cpu":
        _guard_generators(runner)
    return True


def _guard_penalties(batch: Any) -> None:
    of_batch = batch._make_prompt_token_ids_cpu_tensor

    def without_virtual() -> Tensor:
        ids_BT: Tensor = of_batch()
        return ids_BT.clamp_(max=batch.vocab_size)

    batch._make_prompt_token_ids_cpu_tensor = without_virtual


def _guard_prompt_logprobs(runner: Any, vocab_size: int) -> None:
    of_runner = runner._get_prompt_logprobs_dict

    def without_virtual(*args: Any) -> Any:
        asked = [runner.requests[id_] for id_ in runner.num_prompt_logprobs]
        with _masked(asked, vocab_size):
            return of_runner(*args)

    runner._get_prompt_logprobs_dict = without_virtual


@contextmanager
def _masked(requests: list[Any], vocab_size: int) -> Iterator[None]:
    """Token 0 for each virtual id; what is told of those positions never leaves the engine."""
    true_ids = [request.prompt_token_ids for request in requests]
    for request, ids in zip(requests, true_ids, strict=True):
        request.prompt_token_ids = [id_ if id_ < vocab_size else 0 for id_ in ids]
    try:
        yield
    finally:
        for request, ids in zip(requests, true_ids, strict=True):
            request.prompt_token_ids = ids


def _guard_generators(runner: Any) -> None:
    """Wound back by their state; the runner does not see those that it would wind back itself."""
    sample, keep_books = runner._sample, runner._bookkeeping_sync

    def wound_back(*args: Any, **named: Any) -> Any:
        states = [(drawn, drawn.get_state()) for drawn in _thrown_away(runner).values()]
        sampled = sample(*args, **named)
        for drawn, state in states:
            drawn.set_state(state)
        return sampled

    def without_them(*args: Any, **named: Any) -> Any:
        hidden = _thrown_away(runner)
        generators = runner.input_batch.generators
        for i in hidden:
            del generators[i]
        try:
            return keep_books(*args, **named)
        finally:
            generators.update(hidden)

    runner._sample, runner._bookkeeping_sync = wound_back, without_them


def _thrown_away(runner: Any) -> dict[int, torch.Generator]:
    """The generators of requests whose prompt is not read to its end, by place in the batch."""
    batch = runner.input_batch
    mask = runner.discard_request_mask.np[: batch.num_reqs]
    return {i: drawn for i, drawn in batch.generators.items() if i < len(mask) and mask[i]}
