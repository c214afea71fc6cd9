"""
Writes a finished run as files that can be served: a metaprompt and one package per adapter.
"""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch
from pydantic import ValidationError

from galenic_adapters.errors import BadInput, RejectedUpload
from galenic_adapters.factor import Factor, Metaprompt
from galenic_adapters.files import write_whole
from galenic_adapters.package.dtypes import DTYPE_NAMES
from galenic_adapters.package.file import Package, write_metaprompt
from galenic_adapters.package.manifest import BackboneId, Manifest, TrainingSet
from galenic_adapters.package.zoo import METAPROMPT
from galenic_adapters.refs import check_name
from galenic_adapters.tasks.base import TaskName
from galenic_adapters.training.datasets import Course
from galenic_adapters.training.modules import FactorLearner
from galenic_adapters.training.recipe import Source


def check_claims(source: Source, labels: Sequence[str], licence: str) -> None:
    """Raise `BadInput` if *source*'s name, labels or licences would make its manifest invalid."""
    check_name("name", source.name)
    claims = {
        "name": source.name,
        "task": TaskName(source.task),
        "labels": tuple(labels),
        "trained_on": ({"dataset": source.dataset or source.name, "licence": source.licence},),
        "licence": licence,
    }
    try:
        Manifest.model_validate(claims)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False):
            if fault["type"] != "missing":  # the finished run fills in the missing fields
                where = ".".join(map(str, fault["loc"]))
                raise BadInput(where, fault["msg"].removeprefix("Value error, ")) from None


def publish_metaprompt(learner: FactorLearner, folder: Path) -> Metaprompt:
    """Write the learned metaprompt into *folder*."""
    metaprompt = learner.metaprompt()
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
    Write *course*'s factor into *folder* as ``<name>.safetensors``; its description says *how*.

    An existing package with the same factor and manifest is kept, since it may hold scores.
    """
    source = course.source
    dtype = _dtype_of(factor)
    factor = Factor.of({name: tensor.to(dtype) for name, tensor in factor.tensors.items()})
    manifest = Manifest(
        name=source.name,
        task=course.task.name,
        labels=course.task.labels,
        template_version=course.task.template_version,
        backbone=backbone,
        metaprompt=metaprompt.digest,
        shapes=factor.shapes,
        dtype=DTYPE_NAMES[dtype],
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
    path.with_suffix(".md").unlink(missing_ok=True)  # the card of the package just replaced
    return package


def _dtype_of(factor: Factor) -> torch.dtype:
    """Choose float16 for scales: near 1 it is eight times as fine as bfloat16."""
    return torch.float16 if factor.scales else torch.bfloat16


def _same(path: Path, manifest: Manifest, factor: Factor) -> Package | None:
    """Return the package at *path* if it differs from these in scores and date at most."""
    try:
        earlier = Package.read(path.read_bytes())
    except (OSError, RejectedUpload):
        return None
    kept = {name: getattr(earlier.manifest, name) for name in ("scores", "created")}
    same = Package.write(manifest.model_copy(update=kept), factor)
    return earlier if same.data == earlier.data else None
