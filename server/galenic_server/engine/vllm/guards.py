"""
Guards against crashes of vLLM's older runner (V1). The newer one needs none of this.

Seeded generators: when a long text is read in chunks, the token sampled after each chunk but the
last is discarded and its generator rewound, by an offset that CPU generators do not have.

Prompt log-probabilities: no pass computes those of the adapter's prompt, so the runner would return
uninitialized memory for its positions. The server looks up the tokens of these ids, and an invalid
id would crash it.
"""

from typing import Any

import torch
from vllm.v1.outputs import LogprobsTensors


def guard(runner: Any) -> None:
    """Install the guards if *runner* is V1."""
    if not hasattr(runner, "discard_request_mask"):
        return
    LogprobsTensors.empty_cpu = staticmethod(_zeros)
    if runner.device.type == "cpu":
        _guard_generators(runner)


def _zeros(num_positions: int, num_tokens: int) -> LogprobsTensors:
    logprobs = torch.zeros(num_positions, num_tokens)
    return LogprobsTensors(
        logprob_token_ids=torch.zeros(num_positions, num_tokens, dtype=torch.int32),
        logprobs=logprobs,
        selected_token_ranks=torch.zeros(num_positions, dtype=torch.int32),
    )


def _guard_generators(runner: Any) -> None:
    """Rewind discarded generators by their state, and hide them from the runner's own rewinding."""
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
    """Return the generators of requests that are still being read, by place in the batch."""
    batch = runner.input_batch
    mask = runner.discard_request_mask.np[: batch.num_reqs]
    return {i: drawn for i, drawn in batch.generators.items() if i < len(mask) and mask[i]}
