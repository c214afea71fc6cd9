"""
Writes a study's report: ``report.md`` to read, ``report.json`` with every figure and its records.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from galenic_adapters.errors import Unavailable
from galenic_adapters.evaluation.chance import interval
from galenic_adapters.evaluation.evaluate import best_constant
from galenic_adapters.progress import Say
from galenic_adapters.study.exams import Exam
from galenic_adapters.study.figures import (
    Cell,
    Curve,
    Table,
    average,
    compared,
    costs,
    curves,
    few_shot_cells,
    main_table,
    num_learned,
    variant_table,
)
from galenic_adapters.study.methods import MAIN
from galenic_adapters.study.plots import plot_few_shot, plot_variants
from galenic_adapters.study.preset import Preset

Lines = Iterator[str]


def write_report(
    folder: Path, preset: Preset, exams: Sequence[Exam], facts: dict[str, Any], say: Say
) -> None:
    """
    Write the report of all finished pieces; others are listed as not run.

    Raises `Unavailable` if a scoring library is missing; the records can still be scored later.
    """
    targets = [exam.listed.name for exam in exams]
    table = main_table(folder, exams)
    variants = variant_table(folder, exams, preset.variants)
    learned = curves(folder, exams, preset.few_shot.shots)
    every = [cell for many in (*table.values(), *variants.values()) for cell in many.values()]
    every += few_shot_cells(folder, exams, preset.few_shot.shots)
    constants = _constants(exams)
    cells = list({(cell.method, cell.target): cell for cell in every}.values())
    others = variants.keys() - {MAIN}
    pictures = [
        *_drawn(lambda: plot_few_shot(folder, learned) if learned else [], say),
        *_drawn(lambda: plot_variants(folder, variants, targets) if others else [], say),
    ]
    sections = [
        _head(facts, preset),
        _main(
            table, targets, facts, constants, {name: num_learned(folder, name) for name in table}
        ),
        _significance(table),
        _variants(variants, targets, preset),
        *([_few_shot(learned, preset)] if preset.few_shot.shots else []),
        (f"![{name}]({name})" for name in pictures if name.endswith(".svg")),
        _costs(folder),
        _trace(cells),
    ]
    text = "\n\n".join("\n".join(section) for section in sections)
    (folder / "report.md").write_text(text + "\n", "utf-8")
    whole = {
        "facts": facts,
        "figures": [_figure(cell) for cell in cells],
        "constants": constants,
        "comparisons": [asdict(comparison) for comparison in compared(table)],
        "costs": [asdict(cost) for cost in costs(folder)],
    }
    (folder / "report.json").write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
    say(f"{folder / 'report.md'}: {len(cells)} figures")


def _constants(exams: Sequence[Exam]) -> dict[str, float]:
    """Return the best constant label's score on each target whose answers are labels."""
    best = {exam.listed.name: best_constant(exam.task, exam.examples) for exam in exams}
    return {name: evaluation.scores.main[1] for name, evaluation in best.items() if evaluation}


def _drawn(draw: Callable[[], list[str]], say: Say) -> list[str]:
    try:
        return draw()
    except Unavailable as missing:
        say(str(missing))
        return []


def _figure(cell: Cell) -> dict[str, Any]:
    return {
        "target": cell.target,
        "method": cell.method,
        "metric": cell.metric,
        "values": dict(zip(cell.runs, cell.values, strict=True)),
        "intervals": {run: interval(t) for run, t in zip(cell.runs, cell.tallies, strict=True)},
        "all_metrics": {run: e.scores.metrics for run, e in cell.runs.items()},
        "mean": cell.mean,
        "sd": cell.sd,
        "num_examples": len(next(iter(cell.runs.values())).examples),
        "mean_num_unread": cell.num_unread,
        "files": cell.files,
    }


def _head(facts: dict[str, Any], preset: Preset) -> Lines:
    yield "# A study of the method"
    yield ""
    yield f"Preset `{facts['preset']}`, backbone {facts['backbone']}"
    yield f"({facts['num_parameters']:,} parameters), {len(facts['sources'])} sources. Every method"
    yield f"learned a target in {preset.target.num_steps} steps of {preset.target.rows_per_source}"
    yield f"examples and is its best on dev data; scores are of at most {preset.max_test} test"
    yield f"examples, mean ± standard deviation over {preset.seeds} seeds of the target stage."
    if facts["metaprompt"]:
        yield f"The metaprompt is that of an earlier run: `{facts['metaprompt']}`."


def _main(
    table: Table,
    targets: Sequence[str],
    facts: dict[str, Any],
    constants: dict[str, float],
    sizes: dict[str, int],
) -> Lines:
    yield "## Targets"
    yield ""
    yield "| method | parameters a task | bytes a task | average | " + " | ".join(targets) + " |"
    yield "|---" * (len(targets) + 4) + "|"
    for method, cells in table.items():
        size = sizes[method]
        share = f"{size:,} ({size / facts['num_parameters']:.4%})" if size else "0"
        mean = average(cells, targets)
        shown = " | ".join(str(cells.get(target, "not run")) for target in targets)
        averaged = "not run" if mean is None else f"{mean:.3f}"
        yield f"| {method} | {share} | {2 * size:,} | {averaged} | {shown} |"
    some = next(iter(table.values()), {})
    yield ""
    yield "Metrics: " + ", ".join(f"{cell.target} {cell.metric}" for cell in some.values()) + "."
    yield ""
    if constants:
        shown = ", ".join(f"{name} {value:.3f}" for name, value in constants.items())
        yield f"The label that scores best when always given has: {shown}."
        yield ""
    yield "Answers that were not clean (mean over seeds; they count as what could be read of them):"
    for method, cells in table.items():
        unread = ", ".join(f"{t} {cell.num_unread:.0f}" for t, cell in cells.items())
        yield f"- {method}: {unread}"


def _significance(table: Table) -> Lines:
    yield "## Is it chance?"
    yield ""
    yield "Paired approximate randomization over test examples; p is corrected by Holm's method for"
    yield "all comparisons of this table."
    yield ""
    yield "| target | against | difference | corrected p |"
    yield "|---|---|---|---|"
    for found in compared(table):
        yield f"| {found.target} | {found.other} | {found.difference:+.3f} | {found.p:.4f} |"


def _variants(table: Table, targets: Sequence[str], preset: Preset) -> Lines:
    yield "## What the parts are worth"
    yield ""
    yield f"{preset.variant_seeds} seed(s) a variant. `input`: a product at the input, the paper's"
    yield "plain form; `sources_N`: only the first N sources; `places_kvf`: scales in other places;"
    yield "`no_metaprompt`: scales from ones; `ia3`: the same at k, v and f; `from_ones`: over the"
    yield "metaprompt, and no source's start; `small_lora`: rank 1, of keys and values alone."
    yield ""
    yield "| variant | average | " + " | ".join(targets) + " |"
    yield "|---" * (len(targets) + 2) + "|"
    for name, cells in table.items():
        mean = average(cells, targets)
        shown = " | ".join(str(cells.get(target, "not run")) for target in targets)
        yield f"| {name} | {'not run' if mean is None else f'{mean:.3f}'} | {shown} |"
    missing = [name for name in preset.variants if name not in table]
    if missing:
        yield ""
        yield f"Not run: {', '.join(missing)}."


def _few_shot(learned: Sequence[Curve], preset: Preset) -> Lines:
    yield "## From few examples"
    yield ""
    few = preset.few_shot
    yield f"Means over {few.draws} draws of k examples and over a task's targets;"
    yield f"{few.phase.num_steps} steps of {few.phase.rows_per_source} examples each, scores of at"
    yield f"most {few.max_test} test examples."
    yield ""
    shots = few.shots
    yield "| task | method | " + " | ".join(f"k = {k}" for k in shots) + " |"
    yield "|---" * (len(shots) + 2) + "|"
    for curve in learned:
        shown = [f"{fmean(curve.draws[k]):.3f}" if k in curve.draws else "not run" for k in shots]
        yield f"| {curve.task} | {curve.method} | {' | '.join(shown)} |"


def _costs(folder: Path) -> Lines:
    yield "## What it took"
    yield ""
    yield "| piece | steps | text tokens | training, s | in all, s | device | GPU memory, GB |"
    yield "|---|---|---|---|---|---|---|"
    for cost in costs(folder):
        yield (
            f"| {cost.piece} | {cost.steps} | {cost.tokens:,} | {cost.training_seconds:.0f} |"
            f" {cost.seconds:.0f} | {cost.device} | {cost.gigabytes or ''} |"
        )


def _trace(cells: Sequence[Cell]) -> Lines:
    yield "## Where each figure is from"
    yield ""
    yield "`report.json` names every figure's records, which hold each answer; `galenic reproduce`"
    yield "reads the figures from them again."
    yield ""
    yield "| figure | records |"
    yield "|---|---|"
    for cell in cells:
        first, *others = cell.files
        more = f" and {len(others)} more" if others else ""
        yield f"| {cell.method}, {cell.target} | `{first}`{more} |"
