"""
From a finished run to files that can be served: a metaprompt and one package an adapter.
"""

from datetime import date
from pathlib import Path

import torch

from galenic_adapters.errors import BadInput
from galenic_adapters.factor import Factor, Metaprompt
from galenic_adapters.package.file import Package, write_metaprompt
from galenic_adapters.package.manifest import BackboneId, Manifest, TrainingSet
from galenic_adapters.package.zoo import METAPROMPT
from galenic_adapters.training.datasets import Course
from galenic_adapters.training.modules import Factors

DTYPE = torch.bfloat16


def publish_metaprompt(learner: Factors, folder: Path) -> Metaprompt:
    """Write the learned metaprompt into *folder*."""
    metaprompt = learner.metaprompt(DTYPE)
    _write(folder / METAPROMPT, write_metaprompt(metaprompt))
    return metaprompt


def publish_factor(
    factor: Factor,
    course: Course,
    folder: Path,
    *,
    metaprompt: Metaprompt,
    backbone: BackboneId,
    how: str,
) -> Package:
    """Write *course*'s factor into *folder* as ``<name>.safetensors``; the card says *how*."""
    source = course.source
    factor = Factor(factor.u_PR.to(DTYPE), factor.v_RD.to(DTYPE))
    manifest = Manifest(
        name=source.name,
        task=course.task.name,
        labels=course.task.labels,
        template_version=course.task.template_version,
        backbone=backbone,
        metaprompt=metaprompt.digest,
        rank=factor.rank,
        positions=metaprompt.num_positions,
        width=metaprompt.width,
        dtype="bfloat16",
        trained_on=(TrainingSet(dataset=source.dataset or source.name, licence=source.licence),),
        licence="Apache-2.0",
        created=date.today(),
        description=f"{how}, on examples drawn from {len(course.train)};"
        f" {course.num_left_out} too long ones were left out.",
    )
    package = Package.write(manifest, factor)
    _write(folder / f"{source.name}.safetensors", package.data)
    return package


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as e:
        part.unlink(missing_ok=True)
        raise BadInput(str(path), f"cannot be written: {e.strerror or e}") from e
