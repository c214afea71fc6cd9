import numpy as np
import pytest

from galenic_adapters.evaluation.chance import holm, interval, paired_p
from galenic_adapters.evaluation.scores import Tally


def accuracy(right):
    right = np.array(right, dtype=float)[:, None]
    return Tally(right, np.ones_like(right))


def chances(share, num=400, seed=0):
    return accuracy(np.random.default_rng(seed).random(num) < share)


class TestInterval:
    def test_holds_the_figure_and_is_the_binomials(self):
        """1.96 standard errors to either side, for a share of 400."""
        tally = chances(0.3)
        value = tally.value()
        half = 1.96 * np.sqrt(value * (1 - value) / 400)

        assert pytest.approx((value - half, value + half), abs=0.006) == interval(tally)

    def test_of_what_never_varies_is_a_point(self):
        assert (1.0, 1.0) == interval(accuracy([1, 1, 1]))

    def test_a_macro_mean_leaves_out_labels_that_a_resample_lacks(self):
        """Two labels, one of them on a single example."""
        num, den = np.array([[2.0, 0], [2, 0], [0, 2]]), np.array([[2.0, 0], [2, 0], [0, 2]])

        assert (1.0, 1.0) == interval(Tally(num, den))


class TestPairs:
    def test_a_clear_difference_is_not_chance_and_none_is(self):
        better, worse, same = chances(0.8), chances(0.5, seed=1), chances(0.5, seed=2)

        assert paired_p([better], [worse]) < 0.001
        assert paired_p([worse], [same]) > 0.05
        assert 1.0 == paired_p([worse], [worse])

    def test_under_no_difference_p_is_even(self):
        """5 % of the p-values are below 0.05, as they have to be."""
        ps = [
            paired_p([chances(0.5, 60, 2 * s)], [chances(0.5, 60, 2 * s + 1)], resamples=200)
            for s in range(300)
        ]

        assert 0.02 < np.mean(np.array(ps) <= 0.05) < 0.08

    def test_sides_may_have_several_seeds_or_one(self):
        seeds = [chances(0.8, seed=s) for s in range(3)]

        assert paired_p(seeds, [chances(0.5, seed=9)]) < 0.001


def test_holms_correction():
    """The textbook's steps: times 3, 2, 1, and never falling."""
    assert pytest.approx([0.03, 0.06, 0.06]) == holm([0.01, 0.04, 0.03])
    assert [1.0, 1.0] == holm([0.9, 0.8])
