"""
How good an adapter is on labelled examples, and what it must beat: the untuned backbone, and who
always gives the same answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.errors import BadInput
from galenic_adapters.evaluation.chance import interval
from galenic_adapters.evaluation.decode import answer_all
from galenic_adapters.evaluation.scores import Scores, score
from galenic_adapters.factor import Composed
from galenic_adapters.tasks.base import Answer, Choice, Completion, Example, Task


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores with what they come from: every completion and how it was read."""

    scores: Scores
    examples: Sequence[Example]
    completions: Sequence[Completion]
    answers: Sequence[Answer[Any]]


def said_of(scores: Scores) -> str:
    """Each metric with its 95 % bootstrap interval, and how many answers were not clean."""
    parts = []
    for metric, tally in scores.tallies.items():
        low, high = interval(tally)
        parts.append(f"{metric} {tally.value():.4f} [{low:.4f}, {high:.4f}]")
    return ", ".join([*parts, f"{scores.num_unread} of {scores.num_examples} not clean"])


def records_of(
    task: Task[Any, Any], examples: Sequence[Example], said: Sequence[Completion]
) -> Iterator[dict[str, Any]]:
    """One JSON-ready row an example; it holds what the model said, not the example's text."""
    for example, one in zip(examples, said, strict=True):
        yield {
            "id": example.id,
            **asdict(one),
            "reading": task.read(one, example.fields).reading,
        }


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
    return _judged(task, examples, said)


def evaluate(
    backbone: PromptedBackbone,
    composed: Composed | None,
    task: Task[Any, Any],
    examples: Sequence[Example],
) -> Evaluation:
    """Greedy answers under the task's constraint, read and scored."""
    return _judged(task, examples, answer_all(backbone, composed, task, examples))


def best_constant(task: Task[Any, Any], examples: Sequence[Example]) -> Evaluation | None:
    """
    The label that scores best where every example gets it; none where answers are no labels.

    It is chosen on these very examples, so no other constant has more.
    """
    constraints = [task.constraint(example.fields) for example in examples]
    choices = [one for one in constraints if isinstance(one, Choice)]
    if len(choices) < len(examples):
        return None
    labels = dict.fromkeys(label for one in choices for label in one.labels)
    said = [[Completion(label, "stop")] * len(examples) for label in labels]
    each = [_judged(task, examples, completions) for completions in said]
    return max(each, key=lambda one: one.scores.main[1], default=None)


def _judged(
    task: Task[Any, Any], examples: Sequence[Example], said: Sequence[Completion]
) -> Evaluation:
    answers = [task.read(c, e.fields) for c, e in zip(said, examples, strict=True)]
    return Evaluation(score(task.name, examples, answers), examples, said, answers)
