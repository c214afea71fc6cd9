"""
Runs the command ``galenic evaluate``, on a package here or an adapter of a running server.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from galenic_adapters.data.examples import read_dataset
from galenic_adapters.evaluation.cards import scored, write_with_card
from galenic_adapters.evaluation.evaluate import (
    best_constant,
    evaluate,
    records_of,
    reread,
    summary_of,
)
from galenic_adapters.evaluation.remote import evaluate_remote
from galenic_adapters.evaluation.subject import Subject
from galenic_adapters.progress import Say
from galenic_adapters.tasks.lookup import make_task
from galenic_client import Client


def measure(
    package_file: Path,
    data: Path,
    *,
    metaprompt_file: Path | None = None,
    dataset: str,
    split: str,
    limit: int | None = None,
    untuned_records: Path | None = None,
    backbone: str | None = None,
    say: Say = print,
) -> None:
    """
    Score a package, the untuned backbone and the best constant label on *data*.

    Writes the scores into the package and its card, and every answer into records beside it. With
    *untuned_records* of an earlier evaluation, the untuned backbone is not run again.
    """
    subject = Subject.load(
        package_file,
        data,
        metaprompt_file=metaprompt_file,
        limit=limit,
        backbone=backbone,
        say=say,
    )
    model, task, examples = subject.model, subject.task, subject.examples
    tuned = evaluate(model, subject.composed, task, examples)
    if untuned_records:
        earlier = [json.loads(row) for row in untuned_records.read_text("utf-8").splitlines()]
        untuned = reread(task, examples, earlier)
    else:
        untuned = evaluate(model, None, task, examples)
    constant = best_constant(task, examples)
    package = scored(
        subject.package,
        dataset,
        split,
        tuned.scores,
        untuned=untuned.scores,
        constant=constant.scores if constant else None,
    )
    for who, evaluation in (("tuned", tuned), ("untuned", untuned), ("constant", constant)):
        if evaluation:
            rows = records_of(task, examples, evaluation.completions)
            _write_records(package_file.with_suffix(f".{split}.{who}.jsonl"), rows)
            say(f"{package.manifest.name} {who}: {summary_of(evaluation.scores)}")
        else:
            say(f"{package.manifest.name} {who}: none, for answers are no labels")
    write_with_card(package, package_file)


def measure_remote(
    client: Client,
    adapter: str,
    data: Path,
    records: Path,
    *,
    task_name: str,
    limit: int | None = None,
    say: Say = print,
) -> None:
    """Score *adapter* of a running server on *data*, by the same metrics; writes *records*."""
    read = read_dataset(data, task_name)
    examples = read.examples[:limit]
    scores, rows = evaluate_remote(client, adapter, make_task(task_name, read.labels), examples)
    _write_records(records, rows)
    say(f"{adapter}: {summary_of(scores)}")


def _write_records(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
