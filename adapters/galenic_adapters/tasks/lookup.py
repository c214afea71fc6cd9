"""
Finds tasks by name.
"""

from collections.abc import Sequence
from typing import Any

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import Task, TaskName
from galenic_adapters.tasks.ner import Ner
from galenic_adapters.tasks.nli import Nli
from galenic_adapters.tasks.qa import Qa
from galenic_adapters.tasks.re import Re
from galenic_adapters.tasks.summarization import Summarization

TASKS: dict[TaskName, Any] = {t.name: t for t in (Ner, Re, Qa, Nli, Summarization)}


def make_task(name: str, labels: Sequence[str] = ()) -> Task[Any, Any]:
    """Make the task *name* with *labels*; raises `BadInput` if it is unknown or they don't fit."""
    if name not in TASKS:
        raise BadInput("task", f"{name[:64]!r} is none of {', '.join(TASKS)}")
    task: Task[Any, Any] = TASKS[TaskName(name)](tuple(labels))
    return task
