"""
Samples the examples of every training step from several sources.

Source k is drawn in proportion to weight_k min(n_k, cap)^(1 / temperature): temperature 1 is by
size, a large one is even (T5, arXiv 1910.10683, section 3.5.2). Counts are drawn by systematic
sampling, so a step's count differs from its expectation by less than one. The order of a source's
examples does not depend on the other sources.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import floor
from random import Random


@dataclass(frozen=True, slots=True)
class Portion:
    """Holds what decides how often a source is drawn: its number of examples and its weight."""

    name: str
    num_examples: int
    weight: float = 1.0


def stream(
    shares: Sequence[Portion], rows: int, *, temperature: float, cap: int, seed: int
) -> Iterator[list[tuple[int, int]]]:
    """Yield, for every step, *rows* pairs (number of a source, number of an example in it)."""
    ends = _ends(shares, rows, temperature, cap)
    starts = [0.0, *ends[:-1]]
    orders = [_order(share, seed) for share in shares]
    rng = Random(f"{seed}/rows")
    while True:
        # Sources are intervals on a line of length *rows*; samples lie at offset, offset + 1, ...
        offset = rng.random()
        counts = [floor(b - offset) - floor(a - offset) for a, b in zip(starts, ends, strict=True)]
        yield [(k, next(orders[k])) for k, count in enumerate(counts) for _ in range(count)]


def _ends(shares: Sequence[Portion], rows: int, temperature: float, cap: int) -> list[float]:
    parts = [s.weight * min(s.num_examples, cap) ** (1 / temperature) for s in shares]
    total = sum(parts)
    # Rounded, so that equal shares which divide *rows* give exact counts.
    return [round(rows * part / total, 9) for part in itertools.accumulate(parts)]


def _order(share: Portion, seed: int) -> Iterator[int]:
    """Yield example numbers without end, shuffled anew in every epoch."""
    for epoch in itertools.count():
        order = list(range(share.num_examples))
        Random(f"{seed}/{share.name}/{epoch}").shuffle(order)
        yield from order
