"""
Writes a run as files: raw rounds in JSON, comparisons and arms in Markdown.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from galenic_server.bench.asking import Round
from galenic_server.bench.figures import Found, found, paired

COLUMNS = (
    *("requests/s", "tokens/s", "TTFT p50", "TTFT p90", "TTFT p99"),
    *("TPOT p50", "TPOT p90", "TPOT p99", "within 6 s", "hit ratio", "worst adapter's p99"),
)


@dataclass(slots=True)
class Report:
    """Holds what was measured, and where; *figures* are computed from it."""

    machine: dict[str, str]
    presets: dict[str, Any] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    samples: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def figures(self) -> list[Found]:
        return found(self.rounds, self.samples)

    @classmethod
    def read(cls, path: Path) -> "Report":
        row = json.loads(path.read_text("utf-8"))
        del row["figures"]
        row["rounds"] = [Round(**fields) for fields in row["rounds"]]
        return cls(**row)

    def add(self, later: "Report") -> None:
        """Merge a later report; parts that it measured again are replaced."""
        parts = {each.part for each in later.rounds}
        self.rounds = [each for each in self.rounds if each.part not in parts] + later.rounds
        self.machine = later.machine
        self.presets |= later.presets
        self.samples |= later.samples
        self.missing |= later.missing

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        figures = [asdict(figure) | {"verdict": figure.verdict} for figure in self.figures]
        row = asdict(self) | {"figures": figures}
        (folder / "bench.json").write_text(json.dumps(row) + "\n", "utf-8")
        (folder / "bench.md").write_text(self.markdown, "utf-8")

    @property
    def markdown(self) -> str:
        return "\n".join(
            [
                "# How fast Galenic answers\n",
                "; ".join(f"{name}: {value}" for name, value in self.machine.items()) + "\n",
                *_of_figures(self.figures),
                "",
                *(f"Not measured, {name}: {why}.\n" for name, why in self.missing.items()),
                *_of_arms(self.rounds),
                "",
                *_of_samples(self.samples),
                "",
            ]
        )


def machine() -> dict[str, str]:
    """Describe this machine and the versions of its software."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu()
    versions = {name: _version(name) for name in ("galenic", "vllm", "torch", "transformers")}
    return {"machine": device, "Python": platform.python_version()} | versions


def _cpu() -> str:
    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in about.splitlines() if "model name" in line]
    widest = "AVX-512" if "avx512f" in about else "AVX2" if "avx2" in about else ""
    name = names[0] if names else platform.machine()
    return f"{name}, {max(len(names), 1)} cores {widest}".strip()


def _version(name: str) -> str:
    for known in (name, f"{name}-cpu"):
        try:
            return version(known)
        except PackageNotFoundError:
            continue
    return "none"


def _of_figures(figures: Sequence[Found]) -> list[str]:
    lines = ["| comparison | bar | median | min to max | |", "|---|---|---|---|---|"]
    for figure in figures:
        bar, values = figure.figure, figure.values
        sign = "≥" if bar.is_least else "≤"
        value = "" if figure.value is None else f"{figure.value:.3g}"
        spread = f"{min(values):.3g} to {max(values):.3g}" if values else ""
        lines.append(f"| {bar.name} | {sign} {bar.bar:g} | {value} | {spread} | {figure.verdict} |")
    return lines


def _of_arms(rounds: Sequence[Round]) -> list[str]:
    names = ("part", "arm", "% of bare", *COLUMNS)
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for part, arm in dict.fromkeys((each.part, each.arm) for each in rounds):
        own = [each for each in rounds if each.part == part]
        measures = [each.measures for each in own if each.arm == arm]
        cells = [f"{median(measured[name] for measured in measures):.3g}" for name in COLUMNS]
        lines.append(f"| {part} | {arm} | {_of_bare(own, arm)} | {' | '.join(cells)} |")
    return lines


def _of_bare(rounds: Sequence[Round], arm: str) -> str:
    """Format an arm's rate in percent of the bare arm of the same engine and label."""
    label = arm.partition(", ")[2]
    names = (f"bare beside {arm}", f"bare, {label}", "bare")
    bare = next((name for name in names if any(each.arm == name for each in rounds)), None)
    if bare is None or arm.startswith("bare"):
        return ""
    return f"{100 * median(paired(rounds, arm, bare, 'requests/s')):.0f}"


def _of_samples(samples: Mapping[str, Sequence[float]]) -> list[str]:
    lines = ["| what | count | p50 | p99 | at most |", "|---|---|---|---|---|"]
    for name, values in samples.items():
        p50, p99 = np.percentile(values, (50, 99))
        lines.append(f"| {name} | {len(values)} | {p50:.4g} | {p99:.4g} | {max(values):.4g} |")
    return lines
