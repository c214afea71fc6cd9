import math
import random

import pytest

from galenic_adapters.errors import BadInput
from galenic_adapters.evaluation.calibrate import calibration_of, fitted, judged
from galenic_adapters.tasks.base import Answer, Reading, Relation, Span

A, B = Span(0, 1, "a", "T", 0.9), Span(2, 3, "b", "T", 0.4)


class TestJudged:
    def test_each_entity_is_right_or_wrong(self):
        answer = Answer((A, B), Reading.CLEAN)

        assert [(0.9, True), (0.4, False)] == judged(answer, (Span(0, 1, "a", "T"),))

    def test_another_type_is_wrong(self):
        assert [(0.9, False)] == judged(Answer((A,), Reading.CLEAN), (Span(0, 1, "a", "U"),))

    def test_a_label_is_one_answer(self):
        assert [(0.7, True)] == judged(Answer("yes", Reading.CLEAN, 0.7), "yes")
        assert [(0.7, False)] == judged(Answer("yes", Reading.CLEAN, 0.7), "no")

    def test_no_relation_can_be_right(self):
        """A pair's answer has a confidence even where it is that there is no relation."""
        assert [(0.7, True)] == judged(Answer((), Reading.CLEAN, 0.7), ())
        assert [(0.7, False)] == judged(Answer((), Reading.CLEAN, 0.7), (Relation("r", A, B),))

    def test_what_could_not_be_read_has_none(self):
        assert [] == judged(Answer(None, Reading.OFF_SCHEMA), (A,))


class TestFitted:
    def test_finds_how_the_answers_were_drawn(self):
        """Right with the probability sigmoid(2 log p + 1): slope and intercept are found again."""
        draw = random.Random(0)
        pairs = []
        for _ in range(20_000):
            p = draw.random()
            pairs.append((p, draw.random() < 1 / (1 + math.exp(-(2 * math.log(p) + 1)))))

        assert (2, 1) == pytest.approx(fitted(pairs), rel=0.1)

    def test_is_finite_if_all_are_right(self):
        slope, intercept = fitted([(p / 50, True) for p in range(1, 50)])

        assert all(map(math.isfinite, (slope, intercept)))
        assert 0.9 < 1 / (1 + math.exp(-(slope * math.log(0.5) + intercept))) < 1


class TestCalibrationOf:
    def test_tells_the_error_before_and_after(self):
        """A model that says 0.9 and is right half of the time is corrected to about one half."""
        found = [[(0.9, i % 2 == 0)] for i in range(40)]
        calibration = calibration_of(found, "d", "dev")

        assert 40 == calibration.num_answers
        assert (0.41, 0.25) == (
            calibration.brier_before,
            pytest.approx(calibration.brier, abs=0.02),
        )

    def test_too_few_are_refused(self):
        problem = "data: gives 3 confidences; a calibration takes 20 or more"
        with pytest.raises(BadInput, match=problem):
            calibration_of([[(0.9, True)], [(0.8, False), (0.7, True)]], "d", "dev")
