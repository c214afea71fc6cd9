"""
Draws a study's curves as PNG and SVG.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from galenic_adapters.errors import Unavailable
from galenic_adapters.study.figures import Curve, Table, average

COLOURS = {"galenic": "#0b6e4f", "prompt_tuning": "#c1666b", "lora": "#3d5a80"}


def plot_few_shot(folder: Path, curves: Sequence[Curve]) -> list[str]:
    """
    Draw one panel per task; the band is one standard deviation over draws. Returns file names.

    Raises `Unavailable` without matplotlib.
    """
    pyplot = _pyplot()
    tasks = list(dict.fromkeys(curve.task for curve in curves))
    figure, axes = pyplot.subplots(
        1, len(tasks), figsize=(3.2 * len(tasks), 3), squeeze=False, layout="constrained"
    )
    for axis, task in zip(axes[0], tasks, strict=True):
        for curve in (c for c in curves if c.task == task):
            shots = list(curve.draws)
            means = [fmean(draws) for draws in curve.draws.values()]
            spread = [stdev(d) if len(d) > 1 else 0.0 for d in curve.draws.values()]
            colour = COLOURS[curve.method]
            axis.plot(shots, means, marker="o", markersize=3, color=colour, label=curve.method)
            low = [mean - by for mean, by in zip(means, spread, strict=True)]
            high = [mean + by for mean, by in zip(means, spread, strict=True)]
            axis.fill_between(shots, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.set(title=task, xlabel="examples (k)", ylim=(0, None))
    axes[0][0].set_ylabel("main metric, test")
    axes[0][-1].legend(frameon=False, fontsize=8)
    return _saved(figure, folder, "few_shot")


def plot_variants(folder: Path, table: Table, targets: Sequence[str]) -> list[str]:
    """Draw the average over targets of our method and of its ablations. Returns file names."""
    pyplot = _pyplot()
    averages = {name: average(cells, targets) for name, cells in table.items()}
    shown = {name: value for name, value in averages.items() if value is not None}
    figure, axis = pyplot.subplots(figsize=(6, 0.4 * len(shown) + 1), layout="constrained")
    axis.barh(list(shown), list(shown.values()), color="#0b6e4f")
    axis.invert_yaxis()
    axis.set_xlabel("average of the targets' main metrics, test")
    return _saved(figure, folder, "variants")


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise Unavailable("plots need matplotlib: pip install 'galenic[train]'") from error

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def _saved(figure: Any, folder: Path, name: str) -> list[str]:
    for suffix in ("png", "svg"):
        figure.savefig(folder / f"{name}.{suffix}", dpi=150)
    _pyplot().close(figure)
    return [f"{name}.png", f"{name}.svg"]
