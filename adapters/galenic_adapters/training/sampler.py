"""
Which examples every step sees.

Source k comes up in proportion to weight_k min(n_k, cap)^(1 / temperature): 1 is by size, large is
evenly. Counts are drawn systematically, so they never stray from that by more than one, and each
source goes through its own examples in its own order, whoever stands beside it.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import floor
from random import Random


@dataclass(frozen=True, slots=True)
class Share:
    """One source's part in a stream: how many examples it has and how much it weighs."""

    name: str
    num_examples: int
    weight: float = 1.0


def stream(
    shares: Sequence[Share], rows: int, *, temperature: float, cap: int, seed: int
) -> Iterator[list[tuple[int, int]]]:
    """For every step *rows* pairs of a source's number and an example's number in it."""
    ends = _ends(shares, rows, temperature, cap)
    starts = [0.0, *ends[:-1]]
    orders = [_order(share, seed) for share in shares]
    rng = Random(f"{seed}/rows")
    while True:
        offset = rng.random()
        counts = [floor(b - offset) - floor(a - offset) for a, b in zip(starts, ends, strict=True)]
        yield [(k, next(orders[k])) for k, count in enumerate(counts) for _ in range(count)]


def _ends(shares: Sequence[Share], rows: int, temperature: float, cap: int) -> list[float]:
    parts = [s.weight * min(s.num_examples, cap) ** (1 / temperature) for s in shares]
    total = sum(parts)
    # Rounded, so that even parts of an even number of rows are whole.
    return [round(rows * part / total, 9) for part in itertools.accumulate(parts)]


def _order(share: Share, seed: int) -> Iterator[int]:
    """Epoch by epoch, each shuffled anew."""
    for epoch in itertools.count():
        order = list(range(share.num_examples))
        Random(f"{seed}/{share.name}/{epoch}").shuffle(order)
        yield from order
