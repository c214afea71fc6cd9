"""
The state of a model with scales in vLLM's newer runner (V2, for GPUs); see `steps`.

vLLM asks the model for this class, tells it of every request that comes and goes, and calls
`prepare_inputs` before each pass, also before one that replays a captured graph.
"""

from typing import Any

import numpy as np
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from galenic_server.engine.vllm.steps import NOWHERE, Seat


class ScaledModelState(DefaultModelState):
    def __init__(self, vllm_config: Any, model: Any, *more: Any) -> None:
        super().__init__(vllm_config, model, *more)
        self._slots = model.scales.slots
        self._seats: dict[str, Seat] = {}

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        super().add_request(req_index, new_req_data)
        self._seats[new_req_data.req_id] = Seat.of(new_req_data.sampling_params)

    def remove_request(self, req_id: str) -> None:
        super().remove_request(req_id)
        self._seats.pop(req_id, None)

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
        # Those of a dummy pass are nobody's.
        seats = [self._seats.get(req_id, NOWHERE) for req_id in input_batch.req_ids]
        self._slots.write(seats, np.asarray(input_batch.num_scheduled_tokens))
        return super().prepare_inputs(input_batch, req_states)
