"""
What the commands ``galenic train``, ``adapt`` and ``evaluate`` do, in the order it happens.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from galenic_adapters.backbone import Backbone, ensure
from galenic_adapters.data.examples import read_dataset
from galenic_adapters.errors import BadInput
from galenic_adapters.evaluation.evaluate import evaluate, model_card, reread, scored
from galenic_adapters.factor import compose
from galenic_adapters.manifest import BackboneId, Manifest
from galenic_adapters.package import Package, check_fits
from galenic_adapters.tasks.base import Example
from galenic_adapters.tasks.registry import make_task
from galenic_adapters.training.learn import learn
from galenic_adapters.training.prompted import PromptedBackbone
from galenic_adapters.training.publish import publish_factor, publish_metaprompt
from galenic_adapters.training.recipe import Recipe
from galenic_adapters.zoo import metaprompt_of

Say = Callable[[str], None]


def train(
    recipe: Recipe,
    folder: Path,
    *,
    data: Path = Path(),
    backbone: str | None = None,
    say: Say = print,
) -> None:
    """Learn a metaprompt with a factor for every source, and write all of them into *folder*."""
    source, model = _load(backbone, say)
    student, courses = learn(recipe, model, folder, data=data)
    metaprompt = publish_metaprompt(student, folder)
    for course in courses:
        publish_factor(student, course, recipe, folder, metaprompt=metaprompt, backbone=source)
    say(f"metaprompt {metaprompt.digest} and {len(courses)} adapters are in {folder}")


def adapt(
    recipe: Recipe,
    folder: Path,
    metaprompt_file: Path | None = None,
    *,
    start: Path | None = None,
    backbone: str | None = None,
    say: Say = print,
) -> None:
    """Learn factors over a frozen metaprompt (the zoo's, if none is named); a package for each."""
    source, model = _load(backbone, say)
    metaprompt = metaprompt_of(source, metaprompt_file)
    first = Package.read(start.read_bytes()) if start else None
    if first:
        check_fits(first, backbone=source, metaprompt=metaprompt, max_rank=recipe.rank)
    student, courses = learn(
        recipe, model, folder, frozen=metaprompt, start=first.factor if first else None
    )
    share = recipe.rank * (metaprompt.num_positions + metaprompt.width) / model.num_parameters
    for course in courses:
        package = publish_factor(
            student, course, recipe, folder, metaprompt=metaprompt, backbone=source
        )
        say(f"{course.source.name}: {len(package.data)} bytes, {share:.4%} of the backbone")


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
    Score a package and the untuned backbone on *data*; both stand in package and card then.

    With *untuned_records* of an earlier evaluation, the untuned backbone is not asked again.
    """
    package = Package.read(package_file.read_bytes())
    source, model = _load(backbone, say)
    metaprompt = metaprompt_of(source, metaprompt_file)
    check_fits(package, backbone=source, metaprompt=metaprompt, max_rank=package.manifest.rank)
    task = make_task(package.manifest.task, package.manifest.labels)
    examples = _examples(data, package.manifest)[:limit]
    tuned = evaluate(model, compose(metaprompt, package.factor), task, examples)
    if untuned_records:
        rows = [json.loads(row) for row in untuned_records.read_text("utf-8").splitlines()]
        untuned = reread(task, examples, rows)
    else:
        untuned = evaluate(model, None, task, examples)
    package = scored(package, dataset, split, tuned.scores, untuned.scores)
    for who, one in (("tuned", tuned), ("untuned", untuned)):
        records = package_file.with_suffix(f".{split}.{who}.jsonl")
        records.write_text("".join(json.dumps(r) + "\n" for r in one.records()), "utf-8")
        said = ", ".join(f"{metric} {value:.4f}" for metric, value in one.scores.metrics.items())
        say(f"{package.manifest.name} {who}: {said}; {one.scores.num_unread} not clean")
    package_file.write_bytes(package.data)
    package_file.with_suffix(".md").write_text(model_card(package), "utf-8")


def _examples(data: Path, manifest: Manifest) -> Sequence[Example]:
    read = read_dataset(data, manifest.task)
    unknown = set(read.labels) - set(manifest.labels)
    if manifest.labels and unknown:
        listed = ", ".join(sorted(unknown)[:5])
        raise BadInput(data.name, f"has labels that the adapter does not know: {listed}")
    return read.examples


def _load(backbone: str | None, say: Say) -> tuple[BackboneId, PromptedBackbone]:
    found: Backbone = ensure(backbone, say)
    return BackboneId(name=found.name, revision=found.revision), PromptedBackbone(found.path)
