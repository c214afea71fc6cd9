"""
What every method said to every test example; a figure is always read from these again.

    <piece>/<target>.<run>.jsonl     one completion a line, as `evaluation.evaluate` writes them
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galenic_adapters.backbone.prompted import PromptedBackbone, Tuning
from galenic_adapters.evaluation.decode import Question, answer
from galenic_adapters.evaluation.evaluate import Evaluation, records_of, reread
from galenic_adapters.study.catalogue import Listed
from galenic_adapters.tasks.base import Example, Task
from galenic_adapters.tasks.lookup import make_task


@dataclass(frozen=True, slots=True)
class Exam:
    """A data set's test examples, and the task with the labels that training saw."""

    listed: Listed
    task: Task[Any, Any]
    examples: Sequence[Example]

    @classmethod
    def of(cls, listed: Listed, limit: int) -> "Exam":
        labels = listed.read("train").labels
        return cls(listed, make_task(listed.task, labels), listed.read("test").examples[:limit])

    def first(self, limit: int) -> "Exam":
        return Exam(self.listed, self.task, self.examples[:limit])


@dataclass(frozen=True, slots=True)
class Sitting:
    """Task number *which* of what was tuned takes this exam; *run* is its seed or draw."""

    which: int
    run: str
    exam: Exam


def sit(
    backbone: PromptedBackbone,
    tuning: Tuning,
    sittings: Sequence[Sitting],
    folder: Path,
    *,
    max_tokens: int | None = None,
    wording: type[Any] | None = None,
) -> None:
    """All of them side by side; *wording* may put a task's question in other words."""
    asked = [
        Question(one.which, wording(one.exam.task) if wording else one.exam.task, example)
        for one in sittings
        for example in one.exam.examples
    ]
    said = iter(answer(backbone, tuning, asked, max_tokens=max_tokens))
    for one in sittings:
        completions = [next(said) for _ in one.exam.examples]
        rows = records_of(one.exam.task, one.exam.examples, completions)
        path = folder / f"{one.exam.listed.name}.{one.run}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def marks(path: Path, exam: Exam) -> Evaluation:
    """What the records in *path* are worth."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return reread(exam.task, exam.first(len(rows)).examples, rows)
