"""
Runs a whole study, piece by piece, the most important first.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.backbone.weights import ensure
from galenic_adapters.errors import BadInput, Unavailable
from galenic_adapters.package.manifest import BackboneId
from galenic_adapters.package.zoo import METAPROMPT, metaprompt_of
from galenic_adapters.progress import Say
from galenic_adapters.study.catalogue import Listed, chosen, read_catalogue
from galenic_adapters.study.exams import Exam
from galenic_adapters.study.figures import few_piece
from galenic_adapters.study.methods import COMPARED, MAIN, method_of
from galenic_adapters.study.pieces import Pieces
from galenic_adapters.study.preset import Preset
from galenic_adapters.study.report import write_report
from galenic_adapters.study.stages import (
    Study,
    distil,
    on_few,
    on_sources,
    on_targets,
    take_over,
    teach,
    untuned,
)
from galenic_adapters.study.zoo import harvest

PARTS = ("main", "zoo", "few_shot", "variants")
TEACHERS_PIECE = "sources/teachers"


def reproduce(
    preset_name: str,
    folder: Path,
    *,
    data: Path,
    backbone: str | None = None,
    run: Path | None = None,
    parts: Sequence[str] = PARTS,
    report_only: bool = False,
    say: Say = print,
) -> None:
    """
    Run the preset's pieces that are not done yet in *folder*, and write the report.

    With *run*, the folder of a finished `galenic train`, that run's metaprompt is studied and none
    is trained. Raises `Conflict` if *folder* holds another study, `BadInput` for faulty data.
    """
    if unknown := set(parts) - set(PARTS):
        raise BadInput("part", f"{', '.join(sorted(unknown))[:80]} is none of {', '.join(PARTS)}")
    preset = Preset.load(preset_name)
    listed = read_catalogue(data)
    sources = chosen(listed, "source", preset.sources)
    exams = [
        Exam.of(target, preset.max_test) for target in chosen(listed, "target", preset.targets)
    ]
    pieces = Pieces(folder, _device(), say)
    if not report_only:
        found = ensure(backbone, say)
        identity = BackboneId(name=found.name, revision=found.revision)
        model = PromptedBackbone(found.path)
        study = Study(preset, model, identity, data, sources, exams, run)
        pieces.claim(_facts(preset_name, study))
        _run(study, pieces, parts)
    facts = pieces.facts()
    try:
        write_report(folder, preset, exams, facts, say)
        if pieces.is_done("targets/sources") and pieces.is_done(f"targets/{MAIN}"):
            harvest(folder, folder / "zoo", _source_exams(sources, preset), exams)
    except Unavailable as missing:
        say(f"{missing}; the records are kept: --report-only scores them where it is installed")


def _run(study: Study, pieces: Pieces, parts: Sequence[str]) -> None:
    preset = study.preset
    source = _run_sources(study, pieces)
    if "main" in parts:
        for method in COMPARED:
            pieces.do(f"targets/{method}", partial(_on_targets, study, method, source))
        pieces.do("targets/untuned", partial(untuned, study))
        _run_variants(study, pieces, ("no_distillation",))
    if "zoo" in parts:
        exams = _source_exams(study.sources, preset)
        pieces.do("targets/sources", lambda into: on_sources(study, exams, into, source))
    if "few_shot" in parts:
        for shots in preset.few_shot.shots:
            for method in COMPARED:
                work = partial(_on_few, study, method, shots, source)
                pieces.do(few_piece(method, shots), work)
    if "variants" in parts:
        _run_variants(study, pieces, preset.variants)


def _run_sources(study: Study, pieces: Pieces) -> Path:
    """Train the metaprompt, or copy it from the given run; returns its folder."""
    if study.run:
        pieces.do(f"sources/{MAIN}", partial(take_over, study, study.run))
    else:
        pieces.do(TEACHERS_PIECE, partial(teach, study))
        pieces.do(f"sources/{MAIN}", partial(_distil, study, MAIN, pieces.path(TEACHERS_PIECE)))
    return pieces.path(f"sources/{MAIN}")


def _run_variants(study: Study, pieces: Pieces, variants: Sequence[str]) -> None:
    """Run the variants; with `--run`, those are skipped that need a metaprompt of their own."""
    for variant in variants:
        source = pieces.path(f"sources/{MAIN}")
        if method_of(variant).own_recipe:
            if study.run:
                continue
            source = pieces.path(f"sources/{variant}")
            work = partial(_distil, study, variant, pieces.path(TEACHERS_PIECE))
            pieces.do(f"sources/{variant}", work)
        pieces.do(f"targets/{variant}", partial(_on_targets, study, variant, source))


def _distil(study: Study, variant: str, teachers: Path, into: Path) -> None:
    distil(study, variant, into, teachers)


def _on_targets(study: Study, method: str, source: Path | None, into: Path) -> None:
    on_targets(study, method, into, source)


def _on_few(study: Study, method: str, shots: int, source: Path, into: Path) -> None:
    on_few(study, method, shots, into, source)


def _source_exams(sources: Sequence[Listed], preset: Preset) -> list[Exam]:
    return [Exam.of(source, preset.max_test) for source in sources]


def _facts(preset_name: str, study: Study) -> dict[str, Any]:
    """Return the facts that identify the study, which its report states."""
    preset, model, run = study.preset, study.backbone, study.run
    return {
        "preset": Path(preset_name).name,
        "settings": preset.to_json(),
        "backbone": str(study.backbone_id),
        "num_parameters": model.num_parameters,
        "sources": [source.name for source in study.sources],
        "targets": [exam.listed.name for exam in study.exams],
        "metaprompt": run and metaprompt_of(study.backbone_id, run / METAPROMPT).digest,
    }


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
