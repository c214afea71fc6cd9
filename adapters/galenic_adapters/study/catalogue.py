"""
The data sets of a study: a folder each, with ``train``, ``dev`` and ``test`` in the JSONL schema,
and ``catalogue.json``, which says of each its task, its licence and whether it is a source or a
target.
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
    """The fields that matter here."""

    model_config = ConfigDict(hide_input_in_errors=True)
    task: str
    role: Literal["source", "target"]
    licence: str = "not stated"


class _Catalogue(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)
    datasets: dict[str, _Entry]


@dataclass(frozen=True, slots=True)
class Listed:
    """A data set of the catalogue."""

    name: str
    task: TaskName
    role: str
    licence: str
    data: Path

    def path(self, split: str) -> Path:
        plain = self.data / self.name / f"{split}.jsonl"
        return plain if plain.exists() else plain.with_name(plain.name + ".gz")

    def source(self) -> Source:
        """What training is told of it; pairs are asked about in training as they are in tests."""
        train, dev = (str(self.path(split).relative_to(self.data)) for split in ("train", "dev"))
        return Source(
            self.name, str(self.task), train, dev, dataset=self.name, licence=self.licence[:200]
        )

    def read(self, split: str) -> Dataset:
        return read_dataset(self.path(split), self.task)


def read_catalogue(data: Path) -> list[Listed]:
    """Raises `BadInput` where *data* has no catalogue, or one of another form."""
    path = data / "catalogue.json"
    try:
        read = _Catalogue.model_validate(json.loads(text_of(path)))
    except (ValidationError, json.JSONDecodeError) as e:
        raise BadInput(str(path), f"is no catalogue: {e}"[:300]) from e
    return [
        Listed(name, _task(entry.task, name), entry.role, entry.licence, data)
        for name, entry in sorted(read.datasets.items())
    ]


def _task(said: str, name: str) -> TaskName:
    try:
        return SHORT.get(said) or TaskName(said.lower())
    except ValueError as e:
        raise BadInput(name, f"task {said[:40]!r} is none of {', '.join(TaskName)}") from e


def chosen(listed: Sequence[Listed], role: str, names: Sequence[str]) -> list[Listed]:
    """Those of a role, of these names where there are any, interleaved by task."""
    of_role = [one for one in listed if one.role == role]
    unknown = set(names) - {one.name for one in of_role}
    if unknown or not of_role:
        raise BadInput(f"{role}s", f"{', '.join(sorted(unknown)) or 'none'} in the catalogue"[:200])
    kept = [one for one in of_role if not names or one.name in names]
    by_task = [[one for one in kept if one.task == task] for task in TaskName]
    longest = max(map(len, by_task))
    return [many[turn] for turn in range(longest) for many in by_task if turn < len(many)]
