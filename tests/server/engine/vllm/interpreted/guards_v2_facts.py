"""
Virtual ids before vLLM's newer runner: its own kernels, run by Triton's interpreter, in a process
that `test_guards_v2.py` starts with TRITON_INTERPRET=1.

Dimension key:  B requests that the runner holds   T tokens   V vocabulary
"""

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton
import triton.language
import vllm.triton_utils
from vllm import SamplingParams

from galenic_server.engine.vllm.guards_v2 import guard_v2

VOCABULARY, NUM_VIRTUAL = 300, 4096
TEXT = [5, 7, 5, 299]
SAID = [9, 9, 7]
PROMPT = [VOCABULARY, VOCABULARY + 31, VOCABULARY + 40, VOCABULARY + NUM_VIRTUAL - 1]
PENALTIES = {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": 0.25}


class Shared:
    """Memory that host and GPU both see; here they are one."""

    def __init__(self, size: Any, dtype: torch.dtype) -> None:
        self.gpu = torch.zeros(size, dtype=dtype)
        self.np = self.gpu.numpy()

    def copy_to_uva(self) -> torch.Tensor:
        return self.gpu


@pytest.fixture(scope="module")
def v2() -> SimpleNamespace:
    """The runner's modules, over Triton, which vLLM takes for absent where there is no GPU."""
    vllm.triton_utils.triton, vllm.triton_utils.tl = triton, triton.language
    penalties = importlib.import_module("vllm.v1.worker.gpu.sample.penalties")
    prompt_logprob = importlib.import_module("vllm.v1.worker.gpu.sample.prompt_logprob")
    penalties.UvaBackedTensor = Shared
    return SimpleNamespace(penalties=penalties, prompt_logprob=prompt_logprob)


@pytest.fixture
def runner(v2: SimpleNamespace) -> Any:
    """
    What the guard sees of a runner that holds three requests: an adapter's, the same text bare, and
    another bare one. The first two have said the same.
    """
    held = [[], [*PROMPT, *TEXT], TEXT, [1, 2, 3]]
    ids_BT = torch.zeros(len(held), 64, dtype=torch.int32)
    lengths = Shared(len(held), torch.int32), Shared(len(held), torch.int32)
    for i, ids in enumerate(held):
        ids_BT[i, : len(ids) + len(SAID)] = torch.tensor([*ids, *SAID])
        lengths[0].np[i], lengths[1].np[i] = len(ids), len(ids) + len(SAID)
    states = SimpleNamespace(
        device=torch.device("cpu"),
        max_num_reqs=len(held),
        vocab_size=VOCABULARY,
        all_token_ids=SimpleNamespace(gpu=ids_BT),
        prompt_len=lengths[0],
        prefill_len=lengths[1],
    )
    sampler = SimpleNamespace(penalties_state=v2.penalties.PenaltiesState(None, states))
    return SimpleNamespace(
        vocab_size=VOCABULARY, sampler=sampler, prompt_logprobs_worker=object(), held=held
    )


def penalized(runner: Any) -> torch.Tensor:
    """The logits (B, V) of every request, that were the same, under the same penalties."""
    state, rows = runner.sampler.penalties_state, range(1, len(runner.held))
    for i in rows:
        state.add_request(i, SamplingParams(**PENALTIES))
    state.apply_staged_writes()
    logits_V = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(0))
    batch = torch.tensor([*rows], dtype=torch.int32)
    context = SimpleNamespace(
        idx_mapping_np=batch.numpy(),
        expanded_idx_mapping=batch,
        input_ids=torch.zeros_like(batch),
        expanded_local_pos=torch.zeros_like(batch),
    )
    made: torch.Tensor = state.apply(logits_V.repeat(len(rows), 1), context)
    return made


class TestPenalties:
    def test_count_text_and_answer_only(self, runner: Any):
        """
        With an adapter's prompt and without it the logits are the same, and they are those of the
        formula; no other request's are touched.
        """
        assert guard_v2(runner, NUM_VIRTUAL)
        behind_adapter, bare, other = penalized(runner)

        assert torch.equal(behind_adapter, bare)
        assert torch.allclose(by_formula(TEXT), bare, atol=1e-6)
        assert torch.allclose(by_formula([1, 2, 3]), other, atol=1e-6)

    def test_would_reach_into_another_request(self, runner: Any):
        """
        Without the guard: what it is there for.
        """
        _, bare, _ = penalized(runner)

        assert not torch.allclose(by_formula(TEXT), bare, atol=1e-6)


def by_formula(text: list[int]) -> torch.Tensor:
    logits_V = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(0))
    counts_V = torch.bincount(torch.tensor(SAID), minlength=VOCABULARY)
    seen = sorted({*text, *SAID})
    at, factor = logits_V[seen], PENALTIES["repetition_penalty"]
    logits_V[seen] = torch.where(at > 0, at / factor, at * factor)
    logits_V -= PENALTIES["frequency_penalty"] * counts_V
    logits_V -= PENALTIES["presence_penalty"] * (counts_V > 0)
    return logits_V


class TestLogprobsOfAPrompt:
    def test_are_looked_up_under_ids_of_the_vocabulary(self, v2: SimpleNamespace, runner: Any):
        """
        Those of the text are its own; the rest never leaves the engine.
        """
        assert guard_v2(runner, NUM_VIRTUAL)
        ids = runner.held[1]
        ids_BT = runner.sampler.penalties_state.req_states.all_token_ids.gpu
        asked = v2.prompt_logprob.get_prompt_logprobs_token_ids(
            len(ids),
            torch.tensor([0, len(ids)], dtype=torch.int32),
            torch.tensor([1], dtype=torch.int32),
            torch.zeros(len(runner.held), dtype=torch.int32),
            ids_BT,
        )

        assert max(asked.tolist()) < VOCABULARY
        assert TEXT == asked.tolist()[len(PROMPT) - 1 : -1]


class TestARunnerThatIsNotKnown:
    def test_is_left_as_it_is(self, runner: Any):
        """
        A mask of another form, a sampler of another kind, or another runner altogether.
        """
        state = runner.sampler.penalties_state
        state.prompt_bin_mask = mask = state.prompt_bin_mask[:, :3]

        assert not guard_v2(runner, NUM_VIRTUAL)
        assert mask is state.prompt_bin_mask
        assert not guard_v2(SimpleNamespace(sampler=object()), NUM_VIRTUAL)
        runner.sampler = object()
        assert not guard_v2(runner, NUM_VIRTUAL)

    def test_one_that_samples_nothing_needs_no_guard(self, runner: Any):
        """
        An earlier stage of a pipeline.
        """
        runner.sampler = None

        assert guard_v2(runner, NUM_VIRTUAL)
