"""
What vLLM's newer runner (V2, for GPUs) must not meet, kept from it; see `guards` for the older.

It remembers which ids a prompt holds as bits, a row of words for each request, and sets the bit of
a virtual id past the end of its row: in another request's, or in no row at all. So the rows are
made wide enough for every virtual id. What the penalties read of a row is the vocabulary's part, as
before. The log-probabilities of a prompt are looked up under ids of the vocabulary; what is told of
an adapter's positions never leaves the engine.

Dimension key:  B requests that the runner holds   W words of 32 ids
"""

from typing import Any

BITS = 32


def guard_v2(runner: Any, num_virtual: int) -> bool:
    """Whether *runner* is V2 as it is known here; then it is guarded from now on."""
    if not hasattr(runner, "prompt_logprobs_worker"):
        return False
    if runner.sampler is None:
        return True  # an earlier stage of a pipeline samples nothing
    state: Any = getattr(runner.sampler, "penalties_state", None)
    mask_BW = getattr(state, "prompt_bin_mask", None)
    if mask_BW is None or mask_BW.shape[1] != _num_words(runner.vocab_size):
        return False
    state.prompt_bin_mask = mask_BW.new_zeros(
        mask_BW.shape[0], _num_words(runner.vocab_size + num_virtual)
    )
    _guard_prompt_logprobs(runner.vocab_size)
    return True


def _num_words(num_ids: int) -> int:
    return -(-num_ids // BITS)


def _guard_prompt_logprobs(vocab_size: int) -> None:
    from vllm.v1.worker.gpu.sample import prompt_logprob  # needs Triton, which CPUs lack

    of_vllm = prompt_logprob.get_prompt_logprobs_token_ids

    def without_virtual(*args: Any) -> Any:
        return of_vllm(*args).clamp_(max=vocab_size - 1)

    prompt_logprob.get_prompt_logprobs_token_ids = without_virtual
