"""What becomes of requests that index the vocabulary by ids of a prompt."""

import pytest
from vllm import SamplingParams

from galenic_adapters.errors import Unsupported
from galenic_server.engine.checks import NEUTRAL, Bounds
from galenic_server.engine.contract import Sampling
from galenic_server.engine.vllm.guards_v1 import guard


class OtherRunner:
    """vLLM's runner for GPUs keeps its requests elsewhere."""

    input_batch = object()


class TestAGuard:
    def test_is_set_up_only_where_the_runner_is_known(self):
        """
        Elsewhere it says so, and the bounds refuses.
        """
        assert not guard(OtherRunner())

    @pytest.mark.parametrize("field", NEUTRAL)
    def test_where_there_is_none_penalties_are_refused(self, field: str):
        """
        Ours and vLLM's way of asking for them alike; nothing else is.
        """
        bounds = Bounds(vocab_size=100, num_positions=8, context_tokens=64, is_guarded=False)
        bounds.check_penalties(Sampling(max_tokens=1))
        bounds.check_penalties(SamplingParams())

        for asked in (Sampling(1, **{field: 1.5}), SamplingParams(**{field: 1.5})):
            with pytest.raises(Unsupported, match=field):
                bounds.check_penalties(asked)

    def test_nor_is_it_told_how_likely_a_prompt_was(self):
        """
        Which an echo with log-probabilities asks.
        """
        bounds = Bounds(vocab_size=100, num_positions=8, context_tokens=64, is_guarded=False)

        with pytest.raises(Unsupported, match="echo"):
            bounds.check_penalties(SamplingParams(prompt_logprobs=1))
