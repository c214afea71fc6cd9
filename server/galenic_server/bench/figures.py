"""
The comparisons of a report: ratios of arms that ran interleaved, paired round by round.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from galenic_server.bench.asking import Round


@dataclass(frozen=True, slots=True)
class Figure:
    """
    Defines a comparison and its bar.

    It is the *measure* of *arm* over that of *against* or, if *against* is empty, the percentile
    *share* of the samples *arm*.   is_least: the bar is a minimum, else a maximum.
    """

    name: str
    bar: float
    arm: str
    against: str = ""
    measure: str = "requests/s"
    share: float = 50
    is_least: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """Holds a measured figure; *values* are of single rounds. None if its arms did not run."""

    figure: Figure
    value: float | None
    values: tuple[float, ...] = ()

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        least, bar = self.figure.is_least, self.figure.bar
        is_met = self.value >= bar if least else self.value <= bar
        return "met" if is_met else "not met"


def ours(size: int, kind: str) -> str:
    return f"ours, N = {size}, {kind}"


def peer(rank: int, max_loras: int) -> str:
    return f"LoRA r{rank}, max_loras {max_loras}"


FIGURES = (
    Figure(
        "N = 1,000, cold, against a text prefix",
        0.97,
        ours(1000, "cold"),
        "text prefix, cold",
        is_least=True,
    ),
    Figure("N = 1,000, warm, against bare", 0.95, ours(1000, "warm"), "bare", is_least=True),
    Figure(
        "N = 100,000 against N = 1, both cold",
        0.97,
        ours(100_000, "cold"),
        ours(1, "cold"),
        is_least=True,
    ),
    Figure(
        "against multi-LoRA r16, 64 adapters, max_loras 8", 8, "ours", peer(16, 8), is_least=True
    ),
    Figure("the same, ours eager as well", 8, "ours, eager", peer(16, 8), is_least=True),
    Figure("TTFT p50, 16 adapters against 1", 1.1, ours(16, "warm"), ours(1, "warm"), "TTFT p50"),
    Figure(
        "TTFT p50, 1,000 adapters against 1", 1.1, ours(1000, "warm"), ours(1, "warm"), "TTFT p50"
    ),
    Figure("upload to servable p50, ms", 50, "upload, ms", share=50),
    Figure("upload to servable p99, ms", 500, "upload, ms", share=99),
    Figure("HTTP against the engine in process", 0.92, "HTTP", "in process", is_least=True),
    Figure("p99 TTFT under churn in the engine against none", 1.2, "churn", "no churn", "TTFT p99"),
    Figure(
        "p99 TTFT under uploads and deletes against none", 1.2, "uploads", "no uploads", "TTFT p99"
    ),
    Figure("constrained NER against free", 0.9, "NER", "NER, free", "tokens/s", is_least=True),
    Figure("constrained choice against free", 0.9, "NLI", "NLI, free", "tokens/s", is_least=True),
)


def found(rounds: Sequence[Round], samples: Mapping[str, Sequence[float]]) -> list[Found]:
    return [_found(figure, rounds, samples) for figure in FIGURES]


def _found(
    figure: Figure, rounds: Sequence[Round], samples: Mapping[str, Sequence[float]]
) -> Found:
    if not figure.against:
        values = tuple(samples.get(figure.arm, ()))
        return Found(figure, float(np.percentile(values, figure.share)) if values else None, values)
    ratios = tuple(paired(rounds, figure.arm, figure.against, figure.measure))
    return Found(figure, statistics.median(ratios) if ratios else None, ratios)


def paired(rounds: Sequence[Round], arm: str, against: str, measure: str) -> list[float]:
    """Return the ratio of two arms in each round that both ran in the same part."""

    def of(name: str) -> dict[tuple[str, int], float]:
        return {
            (each.part, each.number): each.measures[measure] for each in rounds if each.arm == name
        }

    above, below = of(arm), of(against)
    return [above[at] / below[at] for at in sorted(above.keys() & below.keys())]
