"""
Who is asked how often, and when.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from galenic_server.bench.preset import Lengths
from galenic_server.bench.workload import arrivals, popular, texts

HOW = ("uniform", "zipf", "power 1", "power 0.6", "power 0.3", "power 0.1")


class TestPopularity:
    @given(st.sampled_from(HOW), st.integers(1, 10**5), st.integers(0, 99))
    def test_names_adapters_that_exist(self, how: str, size: int, seed: int):
        """
        Every draw is one of the adapters, and there are as many as were wanted.
        """
        drawn = popular(how, 50, size, np.random.default_rng(seed))

        assert 50 == len(drawn)
        assert set(drawn) <= set(range(size))

    def test_grows_more_even_with_alpha(self):
        """
        The most popular of 100 gets least by uniform draws and more the smaller alpha is; alpha 1
        is uniform too.
        """

        def top(how: str) -> int:
            drawn = popular(how, 20_000, 100, np.random.default_rng(0))
            return int(np.bincount(drawn, minlength=100).max())

        assert top("uniform") < 300
        assert top("power 1") < 300
        assert 300 < top("power 0.6") or top("power 0.6") > top("power 1")
        assert top("power 0.3") < top("power 0.1")

    def test_zipf_halves(self):
        """
        By Zipf's law with exponent 1 the second is asked half as often as the first.
        """
        drawn = popular("zipf", 50_000, 100, np.random.default_rng(0))
        first, second = np.bincount(drawn)[:2]

        assert second / first == pytest.approx(0.5, rel=0.1)


class TestArrivals:
    @given(st.floats(0.5, 500), st.sampled_from([1.0, 4.0, 8.0]), st.integers(0, 99))
    def test_begin_at_once_and_go_on(self, rate: float, cv: float, seed: int):
        """
        The first comes at zero and none before the one it follows.
        """
        drawn = arrivals(rate, cv, 40, np.random.default_rng(seed))

        assert drawn[0] == pytest.approx(0, abs=1e-9)
        assert drawn == sorted(drawn)

    @pytest.mark.parametrize("cv", [1, 4, 8])
    def test_have_the_rate_and_the_variation(self, cv: float):
        """
        Gaps have the mean and the coefficient of variation that were wanted.
        """
        gaps = np.diff(arrivals(20, cv, 200_000, np.random.default_rng(0)))

        assert gaps.mean() == pytest.approx(1 / 20, rel=0.1)
        assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)


def test_texts_keep_to_their_lengths():
    """
    Sizes and ids lie within what was given, both ends included.
    """
    drawn = texts(Lengths((2, 4), (1, 2)), 200, (10, 20), np.random.default_rng(0))

    assert {2, 3, 4} == {len(ids) for ids, _ in drawn}
    assert {1, 2} == {answer for _, answer in drawn}
    assert {id_ for ids, _ in drawn for id_ in ids} == set(range(10, 20))
