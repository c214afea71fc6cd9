"""
What vLLM's older runner (V1) must not meet, kept from it. The newer one needs none of this.

A seed's generator, where a long text is read in parts: the token drawn after each part but the last
is thrown away, and the generator wound back, by an offset that CPU generators do not have. That
would end the engine.

How likely a text is, where a prompt stands before it: of the prompt's positions, which no pass
computes, the runner would tell what its memory holds. The server looks up the names of those ids,
and one that is no id would end it.
"""

from typing import Any

import torch
from vllm.v1.outputs import LogprobsTensors


def guard(runner: Any) -> None:
    """From now on, where *runner* is V1."""
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
