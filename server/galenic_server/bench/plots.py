"""
Plots a run over the number of adapters: requests, first tokens, share of bare, memory.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from galenic_server.bench.asking import Round
from galenic_server.bench.figures import ours, paired
from galenic_server.bench.report import Report

COLOURS = {"cold": "#3d5a80", "warm": "#0b6e4f"}


def plot(report: Report, folder: Path) -> list[str]:
    """Draw the plots; returns their files, or none without matplotlib or data."""
    rounds = [each for each in report.rounds if each.part == "residency"]
    sizes = sorted({int(size) for r in rounds for size in re.findall(r"N = (\d+)", r.arm)})
    try:
        import matplotlib
    except ImportError:
        return []
    if not sizes:
        return []
    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), layout="constrained")
    for kind, colour in COLOURS.items():
        _throughput(axes[0][0], rounds, sizes, kind, colour)
        _first_tokens(axes[0][1], rounds, sizes, kind, colour)
        _share(axes[1][0], rounds, sizes, kind, colour)
    kept = [report.samples[f"bytes of {size}"][0] / 2**20 for size in sizes]
    axes[1][1].plot(sizes, kept, marker="o", color="#c1666b")
    axes[1][1].set(ylabel="MiB of prompts", yscale="log")
    for axis in axes.flat:
        axis.set(xscale="log", xlabel="adapters in the mix")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.savefig(folder / "bench.svg")
    pyplot.close(figure)
    return ["bench.svg"]


def _throughput(axis: Any, rounds: Sequence[Round], sizes: list[int], kind: str, c: str) -> None:
    every = [_values(rounds, ours(size, kind), "requests/s") for size in sizes]
    axis.plot(sizes, [median(values) for values in every], marker="o", color=c, label=kind)
    axis.fill_between(sizes, list(map(min, every)), list(map(max, every)), color=c, alpha=0.2)
    axis.set(ylabel="requests/s", ylim=(0, None))


def _first_tokens(axis: Any, rounds: Sequence[Round], sizes: list[int], kind: str, c: str) -> None:
    for share, style in ((50, "-"), (90, "--"), (99, ":")):
        every = [_values(rounds, ours(size, kind), f"TTFT p{share}") for size in sizes]
        axis.plot(sizes, [median(values) for values in every], linestyle=style, color=c)
    axis.set(ylabel="first token p50, p90, p99, s", ylim=(0, None))


def _share(axis: Any, rounds: Sequence[Round], sizes: list[int], kind: str, c: str) -> None:
    every = [paired(rounds, ours(size, kind), "bare", "requests/s") for size in sizes]
    axis.plot(sizes, [median(values) for values in every], marker="o", color=c)
    axis.axhline(1, color="#888888", linewidth=0.8)
    axis.set(ylabel="share of bare", ylim=(0, 1.1))


def _values(rounds: Sequence[Round], arm: str, measure: str) -> list[float]:
    return [each.measures[measure] for each in rounds if each.arm == arm]
