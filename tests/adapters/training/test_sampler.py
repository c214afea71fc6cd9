from collections import Counter
from itertools import islice

import pytest

from galenic_adapters.training.sampler import Portion, stream

BALANCED = {"temperature": 1.0, "cap": 10**6, "seed": 0}


def drawn(shares, rows, steps, **how):
    return [pair for step in islice(stream(shares, rows, **BALANCED | how), steps) for pair in step]


def test_an_epoch_holds_every_example_once():
    pairs = drawn([Portion("a", 40)], 8, 5)

    assert [(0, i) for i in range(40)] == sorted(pairs)


@pytest.mark.parametrize(
    ("temperature", "cap", "parts"),
    [(1.0, 10**6, (0.1, 0.9)), (2.0, 10**6, (0.25, 0.75)), (1.0, 100, (0.5, 0.5))],
)
def test_sources_come_up_by_size_temperature_and_cap(temperature, cap, parts):
    pairs = drawn([Portion("a", 100), Portion("b", 900)], 10, 400, temperature=temperature, cap=cap)
    counts = Counter(k for k, _ in pairs)

    assert pytest.approx(parts, abs=0.005) == (counts[0] / 4000, counts[1] / 4000)


def test_even_sources_have_the_same_part_of_every_step():
    shares = [Portion(name, 50) for name in "abcdefg"]

    for step in islice(stream(shares, 21, **BALANCED), 50):
        assert dict.fromkeys(range(7), 3) == Counter(k for k, _ in step)


def test_a_source_goes_its_own_way_whoever_stands_beside_it():
    alone = drawn([Portion("b", 9)], 2, 10)
    beside = drawn([Portion("a", 9), Portion("b", 9)], 4, 10)

    assert [i for _, i in alone] == [i for k, i in beside if k == 1]


def test_weights_count():
    pairs = drawn([Portion("a", 50, weight=3.0), Portion("b", 50)], 8, 10)

    assert 60 == sum(k == 0 for k, _ in pairs)
