"""
Runs the command ``galenic calibrate``: fits how an adapter's confidences are corrected.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from galenic_adapters.errors import BadInput
from galenic_adapters.evaluation.cards import write_with_card
from galenic_adapters.evaluation.evaluate import evaluate
from galenic_adapters.evaluation.scores import relation_fact, span_fact
from galenic_adapters.evaluation.subject import Subject
from galenic_adapters.package.file import Package
from galenic_adapters.package.manifest import Calibration, Manifest
from galenic_adapters.progress import Say
from galenic_adapters.tasks.base import Answer, Span
from galenic_adapters.tasks.confidence import SMALLEST, corrected

FEWEST = 20
"""Parts of answers that a calibration is fitted on, at least."""
NUM_FOLDS = 5

Judged = Sequence[tuple[float, bool]]
"""Confidences, each with whether what it belongs to is right."""


def calibrate(
    package_file: Path,
    data: Path,
    *,
    metaprompt_file: Path | None = None,
    dataset: str,
    split: str,
    limit: int | None = None,
    backbone: str | None = None,
    say: Say = print,
) -> None:
    """
    Answer *data* with a package, fit its calibration, and write it into the package and its card.

    A calibration that does not lower the mean squared error is not written. Raises `BadInput` if
    the answers have too few confidences (free text has none).
    """
    subject = Subject.load(
        package_file,
        data,
        metaprompt_file=metaprompt_file,
        limit=limit,
        backbone=backbone,
        say=say,
    )
    manifest, examples = subject.package.manifest, subject.examples
    answers = evaluate(subject.model, subject.composed, subject.task, examples).answers
    found = [judged(*pair) for pair in zip(answers, (e.value for e in examples), strict=True)]
    calibration = calibration_of(found, dataset, split)
    say(
        f"{manifest.name}: {calibration.num_answers} confidences, mean squared error "
        f"{calibration.brier_before:.4f} before, {calibration.brier:.4f} after (cross-validated)"
    )
    if calibration.brier >= calibration.brier_before:
        say("no better, so the package stays as it is; more examples may help")
        return
    fields = manifest.model_dump() | {"calibration": calibration}
    package = Package.write(Manifest.model_validate(fields), subject.package.factor)
    write_with_card(package, package_file)


def calibration_of(found: Sequence[Judged], dataset: str, split: str) -> Calibration:
    """
    Fit a calibration on the confidences of each example's answer; raises `BadInput` for too few.

    Folds are of whole examples, since an example's mentions are right or wrong together.
    """
    whole = [pair for some in found for pair in some]
    if len(whole) < FEWEST:
        problem = f"gives {len(whole)} confidences; a calibration takes {FEWEST} or more"
        raise BadInput("data", problem)
    slope, intercept = fitted(whole)
    return Calibration(
        slope=round(slope, 6),
        intercept=round(intercept, 6),
        dataset=dataset,
        split=split,
        num_answers=len(whole),
        brier=round(_cross_validated(found), 4),
        brier_before=round(sum((p - is_right) ** 2 for p, is_right in whole) / len(whole), 4),
    )


def fitted(pairs: Judged) -> tuple[float, float]:
    """
    Fit slope and intercept of `tasks.confidence.calibrated` by maximum likelihood.

    Targets are a little inside 0 and 1, so that the fit is finite if all answers are right (Platt,
    1999, "Probabilistic outputs for support vector machines").
    """
    logs = [math.log(max(confidence, SMALLEST)) for confidence, _ in pairs]
    log_N = torch.tensor(logs, dtype=torch.float64)
    right_N = torch.tensor([float(is_right) for _, is_right in pairs], dtype=torch.float64)
    num_right = float(right_N.sum())
    num_wrong = len(right_N) - num_right
    upper, lower = (num_right + 1) / (num_right + 2), 1 / (num_wrong + 2)
    target_N = torch.where(right_N > 0, upper, lower).double()
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits_N = weights[0] * log_N + weights[1]
        nats = torch.nn.functional.binary_cross_entropy_with_logits(logits_N, target_N)
        nats.backward()  # type: ignore[no-untyped-call]
        return nats

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    slope, intercept = weights.detach().tolist()
    return slope, intercept


def judged(answer: Answer[Any], expected: Any) -> Judged:
    """
    Return every confidence in *answer* with whether that part of it is right.

    Each entity and each listed relation is a part; any other answer is one.
    """
    found, right = _facts(answer.value), _facts(expected)
    if answer.confidence is not None:
        return [(answer.confidence, set(found) == set(right))]
    return [(p, fact in right) for fact, p in found.items() if p is not None]


def _facts(value: Any) -> dict[Any, float | None]:
    """Return what has to be right in *value*, each with its confidence."""
    if not isinstance(value, tuple):
        return {value: None}
    return {
        span_fact(part) if isinstance(part, Span) else relation_fact(part): part.confidence
        for part in value
    }


def _cross_validated(found: Sequence[Judged]) -> float:
    """Return the mean squared error of confidences corrected by a fit on the other folds."""
    errors: list[float] = []
    for fold in range(NUM_FOLDS):
        kept = [pair for i, some in enumerate(found) if i % NUM_FOLDS != fold for pair in some]
        tested = [pair for some in found[fold::NUM_FOLDS] for pair in some]
        if not (kept and tested):
            continue
        weights = fitted(kept)
        errors += [(corrected(p, *weights) - is_right) ** 2 for p, is_right in tested]
    return sum(errors) / len(errors)
