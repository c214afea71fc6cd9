"""
Measures how fast this machine answers: ``galenic bench``, or ``make bench`` for the quick form.

All arms run interleaved, round by round, so that a noisy machine is noisy for each of them. A
comparison is the median over rounds of two arms' ratio. Parts may be run one at a time into the
same folder.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from galenic_adapters.errors import GalenicError
from galenic_server.bench.plots import plot
from galenic_server.bench.preset import PRESETS, Preset
from galenic_server.bench.report import Report
from galenic_server.bench.run import PARTS, add_to, of_backbone, of_shape, run
from galenic_server.bench.stage import Stage


def main() -> int:
    asked = _arguments()
    preset = _preset(asked)
    try:
        for name in preset.shapes or (None,):
            _one(asked, preset, name)
    except GalenicError as error:
        sys.stderr.write(f"galenic: {error}\n")
        return 1
    return 0


def _preset(asked: argparse.Namespace) -> Preset:
    preset = PRESETS[asked.preset]
    if asked.rounds:
        preset = replace(preset, num_rounds=asked.rounds, peer_rounds=asked.rounds)
    if asked.requests:
        preset = replace(preset, num_requests=asked.requests)
    if asked.form:
        preset = replace(preset, form=asked.form)
    if asked.positions:
        preset = replace(preset, num_positions=asked.positions)
    return replace(preset, sizes=tuple(asked.size)) if asked.size else preset


def _one(asked: argparse.Namespace, preset: Preset, shape: str | None) -> None:
    folder = asked.out / shape if shape else asked.out
    with tempfile.TemporaryDirectory() as scratch:
        if shape:
            stage = of_shape(preset, shape, Path(scratch))
        else:
            stage = of_backbone(preset, asked.engine, asked.backbone)
        report = measure(stage, asked.part or preset.parts, folder)
    sys.stdout.write(report.markdown)


def measure(stage: Stage, parts: Sequence[str], folder: Path) -> Report:
    """Run the *parts*, and update the report in *folder* after each."""

    def keep(report: Report) -> None:
        whole = add_to(folder, report)
        whole.write(folder)
        plot(whole, folder)

    return add_to(folder, asyncio.run(run(stage, parts, keep)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="galenic bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--part", choices=PARTS, action="append", help="this one only; repeatable")
    parser.add_argument("--backbone", help="a folder or a hub name; the shipped one if unset")
    parser.add_argument("--engine", choices=["vllm", "transformers"], default="vllm")
    parser.add_argument("--rounds", type=int, help="instead of the preset's")
    parser.add_argument("--requests", type=int, help="of a round and arm, the same")
    parser.add_argument("--size", type=int, action="append", help="adapters in the mix; repeatable")
    parser.add_argument("--form", choices=["scales", "input", "deep"], help="of the adapters")
    parser.add_argument("--positions", type=int, help="of prompts, and of the text prefix")
    parser.add_argument("--out", type=Path, default=Path("bench"), help="the report's folder")
    return parser.parse_args()


if __name__ == "__main__":  # vLLM's processes import this module again
    sys.exit(main())
