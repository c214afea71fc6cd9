"""
Virtual ids kept from where vLLM's runner indexes the vocabulary by the ids of a prompt.

Penalties count the prompt ids of the whole batch as soon as one request has any, and the
log-probabilities of a prompt are looked up by its ids. An id past the vocabulary would end the
engine there. The runner pads with the vocabulary's size, which it counts for nobody, so that is
what it is shown in their place.

Dimension key:  B requests of a batch   T tokens
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from vllm.v1.worker.gpu_input_batch import InputBatch


def guard(runner: Any) -> bool:
    """Whether *runner* is of the kind that is known here; then it is guarded from now on."""
    batch = getattr(runner, "input_batch", None)
    if not isinstance(batch, InputBatch) or not hasattr(runner, "_get_prompt_logprobs_dict"):
        return False
    _guard_penalties(batch)
    _guard_prompt_logprobs(runner, batch.vocab_size)
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
