"""
Computes a study's figures from records; each figure names the files that it was read from.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from galenic_adapters.evaluation.chance import holm, paired_p
from galenic_adapters.evaluation.evaluate import Evaluation
from galenic_adapters.evaluation.scores import Tally
from galenic_adapters.study.exams import Exam, marks
from galenic_adapters.study.methods import BASELINES, COMPARED, MAIN
from galenic_adapters.study.pieces import DONE
from galenic_adapters.study.stages import LEARNED


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """Holds one method's evaluations on one target, by run (seed or draw), and their files."""

    target: str
    method: str
    runs: dict[str, Evaluation]
    files: tuple[str, ...]

    @property
    def metric(self) -> str:
        return next(iter(self.runs.values())).scores.main[0]

    @property
    def values(self) -> list[float]:
        return [run.scores.main[1] for run in self.runs.values()]

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def sd(self) -> float | None:
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def num_unread(self) -> float:
        return fmean(run.scores.num_unread for run in self.runs.values())

    @property
    def tallies(self) -> list[Tally]:
        return [run.scores.tallies[self.metric] for run in self.runs.values()]

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.sd is None else f" ± {self.sd:.3f}")


def cell(folder: Path, piece: str, method: str, exam: Exam, run: str = "*") -> Cell | None:
    """Score the records of *exam* in a finished piece; None if there are none."""
    name = exam.listed.name
    paths = sorted((folder / piece).glob(f"{name}.{run}.jsonl"))
    if not paths or not (folder / piece / DONE).exists():
        return None
    runs = {path.name.split(".")[-2]: marks(path, exam) for path in paths}
    return Cell(name, method, runs, tuple(str(path.relative_to(folder)) for path in paths))


def num_learned(folder: Path, method: str) -> int:
    """Return the method's number of trained parameters per target; 0 for the untuned backbone."""
    path = folder / "targets" / method / LEARNED
    return int(json.loads(path.read_text("utf-8"))["num_parameters"]) if path.exists() else 0


Table = dict[str, dict[str, Cell]]
"""Cells by method, then by target."""


def main_table(folder: Path, exams: Sequence[Exam]) -> Table:
    """Return the cells of all methods that were run, untuned ones first."""
    rows = [
        ("untuned", "targets/untuned", "plain"),
        ("untuned, instructed", "targets/untuned", "instructed"),
        *((method, f"targets/{method}", "*") for method in reversed(COMPARED)),
        *((method, f"targets/{method}", "*") for method in BASELINES),
    ]
    return _table(folder, exams, rows)


def variant_table(folder: Path, exams: Sequence[Exam], variants: Sequence[str]) -> Table:
    return _table(folder, exams, [(name, f"targets/{name}", "*") for name in (MAIN, *variants)])


def _table(folder: Path, exams: Sequence[Exam], rows: Sequence[tuple[str, str, str]]) -> Table:
    table: Table = {}
    for method, piece, run in rows:
        cells = [cell(folder, piece, method, exam, run) for exam in exams]
        if found := {c.target: c for c in cells if c}:
            table[method] = found
    return table


def average(cells: dict[str, Cell], targets: Sequence[str]) -> float | None:
    """Return the mean over *targets*; None if one is missing."""
    return fmean(cells[t].mean for t in targets) if set(targets) <= set(cells) else None


@dataclass(frozen=True, slots=True)
class Compared:
    """Compares our method with another on a target: ours minus theirs, and Holm's corrected p."""

    target: str
    other: str
    difference: float
    p: float


def compared(table: Table) -> list[Compared]:
    """Compare our method with every other on every target, by paired tests corrected together."""
    pairs = [
        (ours, cells[target])
        for target, ours in table.get(MAIN, {}).items()
        for method, cells in table.items()
        if method != MAIN and target in cells
    ]
    ps = holm([paired_p(ours.tallies, other.tallies) for ours, other in pairs])
    return [
        Compared(ours.target, other.method, ours.mean - other.mean, p)
        for (ours, other), p in zip(pairs, ps, strict=True)
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Holds a method's few-shot scores by k: a value per draw, averaged over a task's targets."""

    method: str
    task: str
    draws: dict[int, list[float]]


def few_shot_cells(folder: Path, exams: Sequence[Exam], shots: Sequence[int]) -> Iterator[Cell]:
    for method in COMPARED:
        for k in shots:
            for exam in exams:
                if found := cell(folder, few_piece(method, k), f"{method} k={k}", exam):
                    yield found


def few_piece(method: str, shots: int) -> str:
    return f"few_shot/{method}/k{shots}"


def curves(folder: Path, exams: Sequence[Exam], shots: Sequence[int]) -> list[Curve]:
    found = []
    for task in dict.fromkeys(str(exam.listed.task) for exam in exams):
        of_task = [exam for exam in exams if str(exam.listed.task) == task]
        for method in COMPARED:
            draws: dict[int, list[float]] = {}
            for k in shots:
                cells = [cell(folder, few_piece(method, k), method, exam) for exam in of_task]
                if all(cells):
                    columns = zip(*(c.values for c in cells if c), strict=True)
                    draws[k] = [fmean(column) for column in columns]
            if draws:
                found.append(Curve(method, task, draws))
    return found


@dataclass(frozen=True, slots=True)
class Cost:
    """Holds what a piece cost: training from its log, the whole from its ``done.json``."""

    piece: str
    steps: int
    tokens: int
    training_seconds: float
    seconds: float
    device: str
    gigabytes: float | None


def costs(folder: Path) -> list[Cost]:
    found = []
    for done in sorted(folder.rglob(DONE)):
        facts = json.loads(done.read_text("utf-8"))
        log = done.with_name("log.jsonl")
        rows = (
            [json.loads(row) for row in log.read_text("utf-8").splitlines()] if log.exists() else []
        )
        found.append(
            Cost(
                str(done.parent.relative_to(folder)),
                len(rows),
                sum(row["tokens"] for row in rows),
                sum(row["seconds"] for row in rows),
                facts["seconds"],
                facts["device"],
                facts["gigabytes"],
            )
        )
    return found
