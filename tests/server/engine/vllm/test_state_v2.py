"""vLLM's newer runner, whose own classes run here without a GPU."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from vllm import AsyncEngineArgs, SamplingParams
from vllm.v1.core.sched.output import NewRequestData
from vllm.v1.worker.gpu.input_batch import InputBatch, InputBuffers
from vllm.v1.worker.gpu.model_states import init_model_state

from galenic_server.engine.vllm.models import Scaled
from galenic_server.engine.vllm.steps import BARE, Seat, StepSlots, follow

MOST_TOKENS = 64
CPU = torch.device("cpu")


class Model(nn.Module):
    """What the runner sees of one of ours."""

    get_model_state_cls = Scaled.get_model_state_cls

    def __init__(self) -> None:
        super().__init__()
        slot_T = torch.full((MOST_TOKENS + 1,), BARE, dtype=torch.int32)
        self.scales = SimpleNamespace(slots=StepSlots(slot_T, num_slots=4))


@pytest.fixture(scope="module")
def config(llama: Path) -> Any:
    arguments = AsyncEngineArgs(str(llama), dtype="float32", kv_cache_memory_bytes=1 << 20)
    return arguments.create_engine_config()


@pytest.fixture
def model() -> Model:
    made = Model()
    made.scales.slots.version_S[[1, 3]] = [10, 30]
    return made


def arrive(state: Any, index: int, name: str, seat: Seat | None) -> None:
    params = SamplingParams(extra_args=seat.extra_args if seat else None)
    state.add_request(
        index,
        NewRequestData(
            req_id=name,
            prompt_token_ids=[1, 2],
            mm_features=[],
            sampling_params=params,
            pooling_params=None,
            block_ids=([],),
            num_computed_tokens=0,
            lora_request=None,
        ),
    )


def batch(names: list[str] | None, num_tokens: list[int]) -> InputBatch:
    """As the runner makes one; without names, for a pass that is nobody's."""
    buffers = InputBuffers(len(num_tokens), MOST_TOKENS, CPU)
    made = InputBatch.make_dummy(len(num_tokens), sum(num_tokens), buffers)
    made.num_scheduled_tokens[:] = num_tokens
    if names is not None:
        made.req_ids = names
    return made


class TestAStep:
    def test_is_in_the_runners_order(self, config, model):
        """
        The order holds for requests in any order, and after one has left and come back elsewhere.
        """
        state = init_model_state(config, model, None, CPU)
        for index, (name, seat) in enumerate(
            {"a": Seat(1, 10), "bare": None, "b": Seat(3, 30)}.items()
        ):
            arrive(state, index, name, seat)
        state.prepare_inputs(batch(["b", "bare", "a"], [1, 1, 3]), None)
        first = model.scales.slots.slot_T[:6].tolist()
        state.remove_request("a")
        arrive(state, 7, "a", Seat(1, 10))
        state.prepare_inputs(batch(["a", "b"], [2, 1]), None)

        assert [3, BARE, 1, 1, 1, BARE] == first
        assert [1, 1, 3, BARE, BARE, BARE] == model.scales.slots.slot_T[:6].tolist()

    def test_of_nobodys_is_bare(self, config, model):
        """
        A dummy pass reads no adapter's slot, whoever is there.
        """
        state = init_model_state(config, model, None, CPU)
        arrive(state, 0, "a", Seat(1, 10))
        state.prepare_inputs(batch(["a"], [4]), None)
        state.prepare_inputs(batch(None, [2, 2]), None)

        assert [BARE] * 4 == model.scales.slots.slot_T[:4].tolist()


class TestARunner:
    def test_is_followed_where_its_state_is_ours(self, config, model):
        """
        One that has not asked the model is not, nor is one that is known to nobody.
        """
        ours = SimpleNamespace(model_state=init_model_state(config, model, None, CPU))

        assert follow(ours)
        assert not follow(SimpleNamespace(model_state=object()))
        assert not follow(SimpleNamespace())
