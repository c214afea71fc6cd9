"""
Makes a zoo of a study: the metaprompt, and a package with card and scores for every data set.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from galenic_adapters.evaluation.cards import scored, write_with_card
from galenic_adapters.evaluation.evaluate import best_constant
from galenic_adapters.package.file import Package
from galenic_adapters.package.zoo import DEFAULTS, METAPROMPT
from galenic_adapters.study.exams import Exam
from galenic_adapters.study.figures import Cell, cell
from galenic_adapters.study.methods import MAIN
from galenic_adapters.study.stages import DEV_LOSSES


def harvest(folder: Path, zoo: Path, sources: Sequence[Exam], targets: Sequence[Exam]) -> None:
    """
    Fill the folder *zoo* from the pieces in *folder*.

    A task's default adapter is the one that gains most over the better of the untuned backbone and
    the best constant label. Targets have several seeds: the one with the lowest dev loss is taken.
    """
    zoo.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "sources" / MAIN / METAPROMPT, zoo / METAPROMPT)
    gains: dict[str, dict[str, float]] = {}
    for exam in sources:
        package = folder / "sources" / MAIN / f"{exam.listed.name}.safetensors"
        tuned = cell(folder, "targets/sources", MAIN, exam, "s0")
        bare = cell(folder, "targets/sources", "untuned", exam, "plain")
        _put(package, tuned, bare, zoo, exam, gains)
    for exam in targets:
        run = _best_run(folder, exam)
        package = folder / "targets" / MAIN / "packages" / run / f"{exam.listed.name}.safetensors"
        tuned = cell(folder, f"targets/{MAIN}", MAIN, exam, run)
        bare = cell(folder, "targets/untuned", "untuned", exam, "plain")
        _put(package, tuned, bare, zoo, exam, gains)
    best = [max(of_task, key=lambda name: of_task[name]) for of_task in gains.values()]
    (zoo / DEFAULTS).write_text(json.dumps(best) + "\n", "utf-8")


def _best_run(folder: Path, exam: Exam) -> str:
    """Return the run (seed) with the lowest dev loss."""
    nats = json.loads((folder / "targets" / MAIN / DEV_LOSSES).read_text("utf-8"))
    runs = {name.rpartition(".")[2]: n for name, n in nats.items() if _is_of(name, exam)}
    return min(runs, key=lambda run: runs[run]) if runs else "s0"


def _is_of(name: str, exam: Exam) -> bool:
    return name.rpartition(".")[0] == exam.listed.name


def _put(
    package_file: Path,
    tuned: Cell | None,
    bare: Cell | None,
    zoo: Path,
    exam: Exam,
    gains: dict[str, dict[str, float]],
) -> None:
    package = Package.read(package_file.read_bytes())
    if tuned and bare:
        ours, theirs = (next(iter(cell.runs.values())).scores for cell in (tuned, bare))
        best = best_constant(exam.task, exam.examples)
        constant = best.scores if best else None
        package = scored(package, exam.listed.name, "test", ours, untuned=theirs, constant=constant)
        beaten = max(scores.main[1] for scores in (theirs, constant) if scores)
        gains.setdefault(str(exam.listed.task), {})[exam.listed.name] = tuned.mean - beaten
    write_with_card(package, zoo / package_file.name)
