"""
Draws workloads: adapters by popularity, lengths of texts, and arrival times.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from galenic_adapters.tasks.base import Constraint
from galenic_server.bench.preset import Lengths


@dataclass(frozen=True, slots=True)
class Prompt:
    """Describes a request; *start* is its arrival in seconds, or None for as soon as possible."""

    text_ids: list[int]
    num_tokens: int
    tenant: str = "bench"
    adapter: str | None = None
    constraint: Constraint | None = None
    start: float | None = None


def popular(how: str, count: int, size: int, rng: Generator) -> list[int]:
    """Draw *count* of *size* adapters: ``uniform``, ``zipf`` of exponent 1, ``power <alpha>``."""
    if how == "uniform":
        return [int(number) for number in rng.integers(size, size=count)]
    if how == "zipf":
        weights = 1 / np.arange(1, size + 1)
        return [int(number) for number in rng.choice(size, size=count, p=weights / weights.sum())]
    # numpy's density grows towards one, so the popular adapters are the last.
    alpha = float(how.removeprefix("power "))
    drawn = (rng.power(alpha, size=count) * size).astype(int)
    return [int(number) for number in np.minimum(drawn, size - 1)]


def arrivals(rate: float, cv: float, count: int, rng: Generator) -> list[float]:
    """Draw *count* arrival times in seconds; gaps are gamma: mean 1 / *rate*, variation *cv*."""
    gaps = rng.gamma(1 / cv**2, cv**2 / rate, size=count)
    return [float(number) for number in np.cumsum(gaps) - gaps[0]]


def texts(
    lengths: Lengths, count: int, vocabulary: tuple[int, int], rng: Generator
) -> list[tuple[list[int], int]]:
    """Draw random token ids for *count* texts, each with the number of tokens to generate."""
    low, high = lengths.text
    sizes = rng.integers(low, high + 1, size=count)
    low, high = lengths.answer
    answers = rng.integers(low, high + 1, size=count)
    return [
        ([int(id_) for id_ in rng.integers(*vocabulary, size=size)], int(answer))
        for size, answer in zip(sizes, answers, strict=True)
    ]
