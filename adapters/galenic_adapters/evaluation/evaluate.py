"""
Evaluates an adapter on labelled examples, beside two baselines: the untuned backbone and the best
constant label.
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
    """Holds scores with every completion that they come from, and how each was read."""

    scores: Scores
    examples: Sequence[Example]
    completions: Sequence[Completion]
    answers: Sequence[Answer[Any]]


def summary_of(scores: Scores) -> str:
    """Format each metric with its 95 % bootstrap interval, and the number of unclean answers."""
    parts = []
    for metric, tally in scores.tallies.items():
        low, high = interval(tally)
        parts.append(f"{metric} {tally.value():.4f} [{low:.4f}, {high:.4f}]")
    return ", ".join([*parts, f"{scores.num_unread} of {scores.num_examples} not clean"])


def records_of(
    task: Task[Any, Any], examples: Sequence[Example], completions: Sequence[Completion]
) -> Iterator[dict[str, Any]]:
    """Yield one JSON-ready row per example: its id and the completion, never the example's text."""
    for example, completion in zip(examples, completions, strict=True):
        yield {
            "id": example.id,
            **asdict(completion),
            "reading": task.read(completion, example.fields).reading,
        }


def reread(
    task: Task[Any, Any], examples: Sequence[Example], records: Sequence[dict[str, Any]]
) -> Evaluation:
    """Restore an evaluation from its records; raises `BadInput` if they are of other examples."""
    if [row["id"] for row in records] != [example.id for example in examples]:
        raise BadInput("records", f"{len(records)} rows are not of these {len(examples)} examples")
    names = Completion.__dataclass_fields__
    completions = [Completion(**{key: row[key] for key in row if key in names}) for row in records]
    return _judged(task, examples, completions)


def evaluate(
    backbone: PromptedBackbone,
    composed: Composed | None,
    task: Task[Any, Any],
    examples: Sequence[Example],
) -> Evaluation:
    """Answer *examples* greedily under the task's constraint, then read and score the answers."""
    return _judged(task, examples, answer_all(backbone, composed, task, examples))


def best_constant(task: Task[Any, Any], examples: Sequence[Example]) -> Evaluation | None:
    """
    Evaluate the one label that scores best if always given; None if answers are not labels.

    It is chosen on these very examples, so no other constant scores higher.
    """
    constraints = [task.constraint(example.fields) for example in examples]
    choices = [constraint for constraint in constraints if isinstance(constraint, Choice)]
    if len(choices) < len(examples):
        return None
    labels = dict.fromkeys(label for choice in choices for label in choice.labels)
    constants = [[Completion(label, "stop")] * len(examples) for label in labels]
    evaluations = [_judged(task, examples, completions) for completions in constants]
    return max(evaluations, key=lambda evaluation: evaluation.scores.main[1], default=None)


def _judged(
    task: Task[Any, Any], examples: Sequence[Example], completions: Sequence[Completion]
) -> Evaluation:
    answers = [task.read(c, e.fields) for c, e in zip(completions, examples, strict=True)]
    return Evaluation(score(task.name, examples, answers), examples, completions, answers)
