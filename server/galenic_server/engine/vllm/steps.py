"""
Writes the slot that each token of a step reads into a static buffer, before each forward pass.

A request carries its slot, and the version that it expects there, in vLLM's
``SamplingParams.extra_args``, which reach the worker with it. vLLM's runners pack a step's requests
one after another, in an order of their own, so the worker asks its runner for that order:

- V2 (GPUs) lets a model bring its own ``ModelState``, see `state_v2`;
- V1 (CPUs) has no such hook, and `follow` wraps the method that prepares a step.

Dimension key:  B requests of a step, in the runner's order   T tokens   S slots
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from vllm.utils.torch_utils import async_tensor_h2d

EXTRA = "galenic"
BARE = 0
"""The slot of requests without scales, and of padding."""


class Seat(NamedTuple):
    """Names the slot of a request's adapter, and the version that must be there."""

    slot: int
    version: int

    @property
    def extra_args(self) -> dict[str, Any]:
        """Return the seat in the form that vLLM's `SamplingParams` carry."""
        return {EXTRA: list(self)}

    @classmethod
    def of(cls, params: Any) -> "Seat":
        """Return the seat that `SamplingParams` carry."""
        carried = (params.extra_args or {}).get(EXTRA)
        return cls(*carried) if carried else NOWHERE


NOWHERE = Seat(BARE, version=0)


def version_of(digest: str) -> int:
    """Return 60 bits that tell adapters in one slot apart, whatever their digests look like."""
    return int(sha256(digest.encode()).hexdigest()[:15], 16)


class StepSlots:
    """Holds the buffer *slot_T*, and the version in each slot."""

    def __init__(self, slot_T: Tensor, num_slots: int) -> None:
        self.slot_T = slot_T
        self.version_S: NDArray[np.int64] = np.zeros(num_slots, dtype=np.int64)
        self._num_written = 0

    def write(self, seats: Sequence[Seat], num_tokens_B: NDArray[np.int32]) -> None:
        """
        Write the slots of the next step's tokens; positions after them read `BARE`.

        Raises `RuntimeError` if a slot holds another version than its request expects.
        """
        slot_B, version_B = np.array(seats, dtype=np.int64).T
        if (wrong := self.version_S[slot_B] != version_B).any():
            at = ", ".join(map(str, slot_B[wrong]))
            raise RuntimeError(f"slots {at} hold other adapters than their requests expect")
        num_tokens = int(num_tokens_B.sum())
        slot_T = np.full(max(num_tokens, self._num_written), BARE, dtype=np.int32)
        slot_T[:num_tokens] = slot_B.repeat(num_tokens_B)
        self._num_written = num_tokens
        self.slot_T[: len(slot_T)] = async_tensor_h2d(slot_T, self.slot_T.device)


def follow(runner: Any) -> bool:
    """Write every step of *runner* from now on; returns False if its kind is unknown."""
    if hasattr(runner, "model_state"):
        from galenic_server.engine.vllm.state_v2 import ScaledModelState  # only GPUs have it

        return isinstance(runner.model_state, ScaledModelState)
    if not all(hasattr(runner, name) for name in ("_prepare_inputs", "input_batch", "requests")):
        return False
    _follow_v1(runner, runner.get_model().scales.slots)
    return True


def _follow_v1(runner: Any, slots: StepSlots) -> None:
    prepare = runner._prepare_inputs

    def prepared(scheduler_output: Any, num_tokens_B: NDArray[np.int32]) -> Any:
        made = prepare(scheduler_output, num_tokens_B)
        states = (runner.requests[id_] for id_ in runner.input_batch.req_ids)
        slots.write([Seat.of(state.sampling_params) for state in states], num_tokens_B)
        return made

    runner._prepare_inputs = prepared
