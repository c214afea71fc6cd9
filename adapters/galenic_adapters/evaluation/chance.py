"""
Statistics of scores: bootstrap intervals, paired tests and Holm's correction.

Dimension key:  N examples   S resamples
"""

from collections.abc import Sequence

import numpy as np

from galenic_adapters.evaluation.scores import Numbers, Tally

RESAMPLES = 2000


def interval(
    tally: Tally, *, share: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval over examples that holds *share* of resamples."""
    num_examples = len(tally.num_NL)
    rng = np.random.default_rng(seed)
    even = np.full(num_examples, 1 / num_examples)
    times_SN = rng.multinomial(num_examples, even, size=resamples).astype(np.float64)
    low, high = np.quantile(tally.values(times_SN), [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def paired_p(
    ours: Sequence[Tally], theirs: Sequence[Tally], *, resamples: int = RESAMPLES, seed: int = 0
) -> float:
    """
    Return the two-sided p of an approximate randomization test (Noreen 1989; Yeh 2000).

    Each side has one tally per seed, all over the same examples. Under the null hypothesis both
    sides answer alike, so each resample swaps the sides of random examples, for all seeds at once.
    """
    num_examples = len(ours[0].num_NL)
    rng = np.random.default_rng(seed)
    swapped_SN = (rng.random((resamples, num_examples)) < 0.5).astype(np.float64)
    seen = abs(_difference(ours, theirs, np.zeros((1, num_examples)))[0])
    by_chance_S = np.abs(_difference(ours, theirs, swapped_SN))
    return float((1 + (by_chance_S >= seen - 1e-12).sum()) / (resamples + 1))


def _difference(ours: Sequence[Tally], theirs: Sequence[Tally], swapped_SN: Numbers) -> Numbers:
    """Return our mean metric minus theirs (S) after these examples swapped sides."""
    return _mixed(ours, theirs, swapped_SN) - _mixed(theirs, ours, swapped_SN)


def _mixed(most: Sequence[Tally], swapped: Sequence[Tally], swapped_SN: Numbers) -> Numbers:
    """Return the mean metric (S) of *most* with the swapped examples taken from *swapped*."""
    stays_SN = 1 - swapped_SN
    values = []
    # A side with a single run is paired with every run of the other.
    for number in range(max(len(most), len(swapped))):
        one, other = most[number % len(most)], swapped[number % len(swapped)]
        both = Tally(
            np.concatenate([one.num_NL, other.num_NL]), np.concatenate([one.den_NL, other.den_NL])
        )
        values.append(both.values(np.concatenate([stays_SN, swapped_SN], axis=1)))
    mean_S: Numbers = np.mean(values, axis=0)
    return mean_S


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for multiple comparisons (Holm 1979), in the same order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = highest
    return corrected
