"""
Runs methods on test examples and records every answer; figures are computed from the records.

    <piece>/<target>.<run>.jsonl     one completion a line, as `evaluation.evaluate` writes them
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.backbone.tuning import Tuning
from galenic_adapters.evaluation.decode import Question, answer
from galenic_adapters.evaluation.evaluate import Evaluation, records_of, reread
from galenic_adapters.study.catalogue import Listed
from galenic_adapters.tasks.base import Example, Task
from galenic_adapters.tasks.lookup import make_task


@dataclass(frozen=True, slots=True)
class Exam:
    """Holds a data set's test examples, and its task with the labels of the training data."""

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
    """Pairs task number *which* of a `Tuning` with its test; *run* names the seed or draw."""

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
    """
    Answer all examples of all *sittings* side by side, and write records into *folder*.

    *wording* wraps a task to put its question in other words.
    """
    asked = [
        Question(s.which, wording(s.exam.task) if wording else s.exam.task, example)
        for s in sittings
        for example in s.exam.examples
    ]
    answers = iter(answer(backbone, tuning, asked, max_tokens=max_tokens))
    for s in sittings:
        completions = [next(answers) for _ in s.exam.examples]
        rows = records_of(s.exam.task, s.exam.examples, completions)
        path = folder / f"{s.exam.listed.name}.{s.run}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def marks(path: Path, exam: Exam) -> Evaluation:
    """Score the records in *path*."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return reread(exam.task, exam.first(len(rows)).examples, rows)
