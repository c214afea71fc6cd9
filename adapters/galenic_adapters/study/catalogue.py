"""
Reads the data sets of a study from a folder.

Each data set is a folder with ``train``, ``dev`` and ``test`` in the JSONL schema.
``catalogue.json`` names each one's task, licence and role (source or target).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from galenic_adapters.data.examples import Dataset, read_dataset
from galenic_adapters.errors import BadInput
from galenic_adapters.files import text_of
from galenic_adapters.tasks.base import TaskName
from galenic_adapters.training.recipe import Source

SHORT = {"SUM": TaskName.SUMMARIZATION}


class _Entry(BaseModel):
    """Parses a catalogue's entry; other fields are ignored."""

    model_config = ConfigDict(hide_input_in_errors=True)
    task: str
    role: Literal["source", "target"]
    licence: str = "not stated"


class _Catalogue(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)
    datasets: dict[str, _Entry]


@dataclass(frozen=True, slots=True)
class Listed:
    """Describes a data set of the catalogue, and reads its splits."""

    name: str
    task: TaskName
    role: str
    licence: str
    data: Path

    def path(self, split: str) -> Path:
        plain = self.data / self.name / f"{split}.jsonl"
        return plain if plain.exists() else plain.with_name(plain.name + ".gz")

    def source(self) -> Source:
        """
        Return the data set as a source for training.

        Relations are asked for pair by pair (no `lists`), as they are in tests.
        """
        train, dev = (str(self.path(split).relative_to(self.data)) for split in ("train", "dev"))
        return Source(
            self.name, str(self.task), train, dev, dataset=self.name, licence=self.licence[:200]
        )

    def read(self, split: str) -> Dataset:
        return read_dataset(self.path(split), self.task)


def read_catalogue(data: Path) -> list[Listed]:
    """Read ``catalogue.json`` in *data*. Raises `BadInput` if it is missing or malformed."""
    path = data / "catalogue.json"
    try:
        read = _Catalogue.model_validate(json.loads(text_of(path)))
    except (ValidationError, json.JSONDecodeError) as e:
        raise BadInput(str(path), f"is no catalogue: {e}"[:300]) from e
    return [
        Listed(name, _task(entry.task, name), entry.role, entry.licence, data)
        for name, entry in sorted(read.datasets.items())
    ]


def _task(task: str, dataset: str) -> TaskName:
    try:
        return SHORT.get(task) or TaskName(task.lower())
    except ValueError as e:
        raise BadInput(dataset, f"task {task[:40]!r} is none of {', '.join(TaskName)}") from e


def chosen(listed: Sequence[Listed], role: str, names: Sequence[str]) -> list[Listed]:
    """
    Return the data sets of *role*, interleaved by task; only those of *names*, if any are given.

    Raises `BadInput` for a name that is not in the catalogue in that role.
    """
    of_role = [d for d in listed if d.role == role]
    unknown = set(names) - {d.name for d in of_role}
    if unknown or not of_role:
        raise BadInput(f"{role}s", f"{', '.join(sorted(unknown)) or 'none'} in the catalogue"[:200])
    kept = [d for d in of_role if not names or d.name in names]
    by_task = [[d for d in kept if d.task == task] for task in TaskName]
    longest = max(map(len, by_task))
    return [many[turn] for turn in range(longest) for many in by_task if turn < len(many)]
