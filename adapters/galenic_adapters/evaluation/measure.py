"""
Runs the command ``galenic evaluate``, on a package here or an adapter of a running server.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from galenic_adapters.backbone.load import load
from galenic_adapters.data.examples import read_dataset
from galenic_adapters.evaluation.cards import model_card, scored
from galenic_adapters.evaluation.evaluate import (
    best_constant,
    evaluate,
    records_of,
    reread,
    summary_of,
)
from galenic_adapters.evaluation.remote import evaluate_remote
from galenic_adapters.package.file import Fit, Package
from galenic_adapters.package.manifest import Manifest
from galenic_adapters.package.zoo import metaprompts_of
from galenic_adapters.progress import Say
from galenic_adapters.tasks.base import Example
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
    package = Package.read(package_file.read_bytes())
    examples = _examples(data, package.manifest)[:limit]
    source, model = load(backbone, say)
    metaprompts = metaprompts_of(source, [metaprompt_file] if metaprompt_file else [])
    fit = Fit(source, metaprompts, model.shape)
    fit.check(package)
    task = make_task(package.manifest.task, package.manifest.labels)
    tuned = evaluate(model, fit.composed(package), task, examples)
    if untuned_records:
        earlier = [json.loads(row) for row in untuned_records.read_text("utf-8").splitlines()]
        untuned = reread(task, examples, earlier)
    else:
        untuned = evaluate(model, None, task, examples)
    constant = best_constant(task, examples)
    package = scored(
        package,
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
    package_file.write_bytes(package.data)
    package_file.with_suffix(".md").write_text(model_card(package), "utf-8")


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


def _examples(data: Path, manifest: Manifest) -> Sequence[Example]:
    return read_dataset(data, manifest.task, manifest.labels).examples
