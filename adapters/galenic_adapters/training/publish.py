"""
From a finished run to files that can be served: a metaprompt and one package an adapter.
"""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch
from pydantic import ValidationError

from galenic_adapters.errors import BadInput, RejectedUpload
from galenic_adapters.factor import Factor, Metaprompt
from galenic_adapters.files import write_whole
from galenic_adapters.package.file import Package, write_metaprompt
from galenic_adapters.package.manifest import BackboneId, Manifest, TrainingSet
from galenic_adapters.package.zoo import METAPROMPT
from galenic_adapters.refs import check_name
from galenic_adapters.tasks.base import TaskName
from galenic_adapters.training.datasets import Course
from galenic_adapters.training.modules import Factors
from galenic_adapters.training.recipe import Source

DTYPE = torch.bfloat16


def check_claims(source: Source, labels: Sequence[str], licence: str) -> None:
    """Raise `BadInput` for what *source*'s package could not say of itself; of names, of data."""
    check_name("name", source.name)
    told = {
        "name": source.name,
        "task": TaskName(source.task),
        "labels": tuple(labels),
        "trained_on": ({"dataset": source.dataset or source.name, "licence": source.licence},),
        "licence": licence,
    }
    try:
        Manifest.model_validate(told)
    except ValidationError as error:
        for one in error.errors(include_url=False, include_input=False):
            if one["type"] != "missing":  # what only the finished run can tell
                where = ".".join(map(str, one["loc"]))
                raise BadInput(where, one["msg"].removeprefix("Value error, ")) from None


def publish_metaprompt(learner: Factors, folder: Path) -> Metaprompt:
    """Write the learned metaprompt into *folder*."""
    metaprompt = learner.metaprompt(DTYPE)
    write_whole(folder / METAPROMPT, write_metaprompt(metaprompt))
    return metaprompt


def publish_factor(
    factor: Factor,
    course: Course,
    folder: Path,
    *,
    metaprompt: Metaprompt,
    backbone: BackboneId,
    how: str,
    licence: str = "not stated",
) -> Package:
    """
    Write *course*'s factor into *folder* as ``<name>.safetensors``; the card says *how*. A package
    of the same that is there already stays as it is, with its scores.
    """
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
        licence=licence,
        created=date.today(),
        description=f"{how}, on examples drawn from {len(course.train)};"
        f" {course.num_left_out} too long ones were left out.",
    )
    path = folder / f"{source.name}.safetensors"
    if earlier := _same(path, manifest, factor):
        return earlier
    package = Package.write(manifest, factor)
    write_whole(path, package.data)
    path.with_suffix(".md").unlink(missing_ok=True)  # the card of what was there before
    return package


def _same(path: Path, manifest: Manifest, factor: Factor) -> Package | None:
    """The package at *path* where it differs from these in scores and date at most."""
    try:
        earlier = Package.read(path.read_bytes())
    except (OSError, RejectedUpload):
        return None
    kept = {name: getattr(earlier.manifest, name) for name in ("scores", "created")}
    same = Package.write(manifest.model_copy(update=kept), factor)
    return earlier if same.data == earlier.data else None
