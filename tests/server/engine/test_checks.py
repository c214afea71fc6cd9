"""What a request may ask of an engine's memory."""

import pytest

from galenic_adapters.errors import TooLong
from galenic_server.engine.checks import Bounds


class TestLogprobsOfAText:
    def test_are_bounded_by_the_vocabulary(self):
        """
        An answer's echo with log-probabilities computes every token's over the whole vocabulary at
        once: 335 tokens of 200,000 fit into what an engine may take beside its plan.
        """
        bounds = Bounds(200_000, 4096)
        bounds.check_logprobs(335, "prompt")

        with pytest.raises(TooLong, match="336 tokens; with its log-probabilities, 335"):
            bounds.check_logprobs(336, "prompt")
