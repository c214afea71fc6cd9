"""
Computes how probable answers are: from the model's own probabilities, corrected by a calibration.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Protocol

from galenic_adapters.tasks.base import Answer

SMALLEST = 1e-30


class Calibration(Protocol):
    """Holds the two numbers of `corrected` (Platt, 1999)."""

    @property
    def slope(self) -> float: ...

    @property
    def intercept(self) -> float: ...


def line_logprobs(tokens: Iterable[tuple[str, float]]) -> tuple[float, ...]:
    """
    Sum the log-probabilities of each line's tokens, given as (text, log-probability).

    The token that ends a line belongs to it; the end token belongs to the last line.
    """
    sums: list[float] = []
    line = 0
    for text, logprob in tokens:
        sums += [0.0] * (line + 1 - len(sums))
        sums[line] += logprob
        line += text.count("\n")
    return tuple(sums)


def probability(logprob: float | None) -> float | None:
    """Convert a log-probability, which rounding may have left above 0."""
    return None if logprob is None else math.exp(min(0.0, logprob))


def calibrated(answer: Answer[Any], calibration: Calibration | None) -> Answer[Any]:
    """Return *answer* with every confidence in it corrected; unchanged without a calibration."""
    if calibration is None:
        return answer

    slope, intercept = calibration.slope, calibration.intercept

    def calibrated_part(part: Any) -> Any:
        if part.confidence is None:
            return part
        return replace(part, confidence=corrected(part.confidence, slope, intercept))

    value = answer.value
    if isinstance(value, tuple):
        value = tuple(map(calibrated_part, value))
    return replace(calibrated_part(answer), value=value)


def corrected(confidence: float, slope: float, intercept: float) -> float:
    """Return ``sigmoid(slope * log confidence + intercept)``."""
    log_odds = slope * math.log(max(confidence, SMALLEST)) + intercept
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, log_odds))))
