import math

import pytest

from galenic_adapters.package.manifest import Calibration
from galenic_adapters.tasks.base import Answer, Reading, Relation, Span
from galenic_adapters.tasks.confidence import calibrated, line_logprobs, probability


def calibration(slope: float, intercept: float) -> Calibration:
    return Calibration(
        slope=slope,
        intercept=intercept,
        dataset="d",
        split="dev",
        num_answers=20,
        brier=0.1,
        brier_before=0.2,
    )


class TestLineLogprobs:
    def test_a_line_end_belongs_to_the_line_that_it_ends(self):
        tokens = [("a", -1.0), ("\n", -2.0), ("b", -3.0), ("<end>", -4.0)]

        assert (-3.0, -7.0) == line_logprobs(tokens)

    def test_there_are_as_many_as_lines(self):
        """A token may hold two line ends, and the last line may be empty."""
        assert (-1.0, 0.0, -2.0) == line_logprobs([("\n\n", -1.0), ("c", -2.0)])

    def test_none_were_measured(self):
        assert () == line_logprobs([])


class TestProbability:
    def test_is_never_above_one(self):
        """Sums of log-probabilities are rounded, to a little above 0 at times."""
        assert 1.0 == probability(1e-7)
        assert 0.5 == pytest.approx(probability(math.log(0.5)))
        assert probability(None) is None


class TestCalibrated:
    ENTITY = Span(0, 1, "a", "T", confidence=0.5)

    def test_corrects_every_confidence(self):
        answer = Answer((self.ENTITY,), Reading.CLEAN)
        (entity,) = calibrated(answer, calibration(1.0, 0.0)).value

        assert 1 / 3 == pytest.approx(entity.confidence)  # odds of 1 to 2
        relation = Relation("r", self.ENTITY, self.ENTITY, confidence=0.5)
        (found,) = calibrated(Answer((relation,), Reading.CLEAN), calibration(1.0, 0.0)).value
        assert 1 / 3 == pytest.approx(found.confidence)
        label = calibrated(Answer("yes", Reading.CLEAN, 0.5), calibration(0.0, 0.0))
        assert ("yes", 0.5) == (label.value, label.confidence)

    def test_leaves_the_rest_as_it_is(self):
        answer = Answer((self.ENTITY, Span(2, 3, "b")), Reading.TRUNCATED, warnings=("w",))

        assert answer == calibrated(answer, None)
        corrected = calibrated(answer, calibration(2.0, 1.0))
        assert answer == corrected  # confidences are not compared
        assert corrected.value[1].confidence is None

    @pytest.mark.parametrize("confidence", [0.0, 1e-40, 1.0])
    def test_takes_any_probability(self, confidence):
        answer = calibrated(Answer("x", Reading.CLEAN, confidence), calibration(30.0, -9.0))

        assert 0 <= answer.confidence <= 1
