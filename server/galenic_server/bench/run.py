"""
Runs a preset's parts one after the other on one engine, and collects the report.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from galenic_adapters.backbone.weights import ensure, shape_of
from galenic_server.bench import churn, constrained, mix, peers, residency, served
from galenic_server.bench.preset import Preset
from galenic_server.bench.report import Report, machine
from galenic_server.bench.shapes import write_shape
from galenic_server.bench.stage import Stage
from galenic_server.engine.contract import Engine
from galenic_server.engine.make import make_engine

Part = Callable[[Stage, Engine], Awaitable[None]]

PARTS: dict[str, Part] = {
    "residency": residency.measure,
    "churn": churn.measure,
    "constrained": constrained.measure,
    "http": served.measure,
    "peers": peers.measure,
    "mix": mix.measure,
}


async def run(stage: Stage, parts: Sequence[str], keep: Callable[[Report], None]) -> Report:
    """Run *parts*; *keep* is called after each, so that a failing part loses no other."""
    report = Report(machine(), {part: asdict(stage.preset) for part in parts})
    report.rounds, report.samples = stage.rounds, stage.samples
    report.missing = stage.missing
    async with _engine(stage) as engine:
        await residency.seat(stage, engine)
        for part in parts:
            await PARTS[part](stage, engine)
            keep(report)
    return report


@asynccontextmanager
async def _engine(stage: Stage) -> AsyncIterator[Engine]:
    engine = make_engine(stage.kind, stage.config(max(stage.preset.sizes)), stage.adapters_of)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


def of_backbone(preset: Preset, kind: str, name: str | None, *, eager: bool = False) -> Stage:
    """Make a stage over a backbone with weights."""
    return _stage(preset, kind, str(ensure(name).path), {}, eager=eager)


HALF_OF_A_GPU, A_GPU = 0.42, 0.9


def of_shape(preset: Preset, name: str, folder: Path) -> Stage:
    """Make a stage over a backbone's shape without weights; with peers if two fit one GPU."""
    backbone = write_shape(name, folder)
    if hasattr(AutoConfig.from_pretrained(backbone), "num_local_experts"):
        preset = replace(preset, peers=())
    share = HALF_OF_A_GPU if preset.peers else A_GPU
    options = {"load_format": "dummy", "gpu_memory_utilization": share}
    return _stage(preset, "vllm", backbone, options)


def _stage(
    preset: Preset,
    kind: str,
    backbone: str,
    options: dict[str, Any],
    *,
    eager: bool = False,
) -> Stage:
    config = AutoConfig.from_pretrained(backbone)
    size = len(AutoTokenizer.from_pretrained(backbone))
    words = (min(1000, size // 2), size)  # the first tokens are special
    return Stage(preset, kind, backbone, shape_of(config), words, options, eager)


def add_to(folder: Path, report: Report) -> Report:
    """Merge *report* into the report in *folder*, and return the result."""
    path = folder / "bench.json"
    if not path.is_file():
        return report
    kept = Report.read(path)
    kept.add(report)
    return kept
