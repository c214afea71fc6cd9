"""
How good an adapter is on labelled examples, beside the untuned backbone on the same ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from galenic_adapters.errors import BadInput
from galenic_adapters.evaluation.decode import answer_all
from galenic_adapters.evaluation.scores import Scores, score
from galenic_adapters.manifest import Manifest, Score
from galenic_adapters.package import Package
from galenic_adapters.tasks.base import Answer, Completion, Example, Task
from galenic_adapters.training.prompted import PromptedBackbone


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores with what they come from: every completion and how it was read."""

    scores: Scores
    examples: Sequence[Example]
    completions: Sequence[Completion]
    answers: Sequence[Answer[Any]]

    def records(self) -> Iterator[dict[str, Any]]:
        """One JSON-ready row an example; it holds what the model said, not the example's text."""
        for one, said, answer in zip(self.examples, self.completions, self.answers, strict=True):
            yield {"id": one.id, **asdict(said), "reading": answer.reading}


def reread(
    task: Task[Any, Any], examples: Sequence[Example], records: Sequence[dict[str, Any]]
) -> Evaluation:
    """An earlier evaluation from its records; raises `BadInput` if it was of other examples."""
    if [row["id"] for row in records] != [example.id for example in examples]:
        raise BadInput("records", f"{len(records)} rows are not of these {len(examples)} examples")
    said = [
        Completion(**{key: row[key] for key in row if key not in {"id", "reading"}})
        for row in records
    ]
    return _read(task, examples, said)


def evaluate(
    backbone: PromptedBackbone,
    prompt_PD: Tensor | None,
    task: Task[Any, Any],
    examples: Sequence[Example],
) -> Evaluation:
    """Greedy answers under the task's constraint, read and scored."""
    return _read(task, examples, answer_all(backbone, prompt_PD, task, examples))


def _read(
    task: Task[Any, Any], examples: Sequence[Example], said: Sequence[Completion]
) -> Evaluation:
    answers = [task.read(c, e.fields) for c, e in zip(said, examples, strict=True)]
    return Evaluation(score(task.name, examples, answers), examples, said, answers)


def scored(
    package: Package, dataset: str, split: str, tuned: Scores, untuned: Scores | None
) -> Package:
    """*package* with these scores in its manifest, in place of earlier ones on the same split."""
    kept = [s for s in package.manifest.scores if (s.dataset, s.split) != (dataset, split)]
    new = [
        Score(
            dataset=dataset,
            split=split,
            metric=metric,
            value=round(value, 4),
            untuned=round(untuned.metrics[metric], 4) if untuned else None,
            num_examples=tuned.num_examples,
        )
        for metric, value in tuned.metrics.items()
    ]
    fields = package.manifest.model_dump() | {"scores": (*kept, *new)}
    return Package.write(Manifest.model_validate(fields), package.factor)


def model_card(package: Package) -> str:
    """The package's manifest as a page of Markdown."""
    m = package.manifest
    rows = [
        f"| {s.dataset} | {s.split} | {s.num_examples} | {s.metric} | {s.value:.3f} | "
        + ("not measured |" if s.untuned is None else f"{s.untuned:.3f} |")
        for s in m.scores
    ]
    trained = ", ".join(f"{t.dataset} (licence: {t.licence})" for t in m.trained_on)
    return "\n".join(
        [
            f"# {m.name}",
            "",
            f"A rank-{m.rank} factor for **{m.task}** over metaprompt `{m.metaprompt[:19]}…`,",
            f"for {m.backbone.name} (weights `{m.backbone.revision}`).",
            f"{m.rank * (m.positions + m.width):,} parameters, {len(package.data):,} bytes.",
            "",
            f"- Labels: {', '.join(m.labels) or 'none; the answer is free text or an option'}",
            f"- Trained on: {trained}. {m.description}",
            f"- Licence of the factor: {m.licence}",
            f"- Package: `{package.digest}`",
            "",
            "| data set | split | examples | metric | this adapter | untuned backbone |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "Both columns: greedy answers to the same examples, same instruction, same constraint.",
            "Not a medical device: a small model, often wrong; for research and engineering.",
            "",
        ]
    )
