"""
From a finished run to files that can be served: a metaprompt and one package an adapter.
"""

from datetime import date
from pathlib import Path

import torch

from galenic_adapters.factor import Metaprompt
from galenic_adapters.manifest import BackboneId, Manifest, TrainingSet
from galenic_adapters.package import Package, write_metaprompt
from galenic_adapters.training.courses import Course
from galenic_adapters.training.recipe import Recipe
from galenic_adapters.training.student import Student
from galenic_adapters.zoo import METAPROMPT

DTYPE = torch.bfloat16


def publish_metaprompt(student: Student, folder: Path) -> Metaprompt:
    """Write the learned metaprompt into *folder*."""
    metaprompt = student.metaprompt(DTYPE)
    (folder / METAPROMPT).write_bytes(write_metaprompt(metaprompt))
    return metaprompt


def publish_factor(
    student: Student,
    course: Course,
    recipe: Recipe,
    folder: Path,
    *,
    metaprompt: Metaprompt,
    backbone: BackboneId,
) -> Package:
    """Write the factor of one source into *folder* as ``<name>.safetensors``."""
    source = course.source
    factor = student.factor(source.name, DTYPE)
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
        description=f"{recipe.num_steps} steps, seed {recipe.seed}, learned on {len(course.train)}"
        f" examples; {course.num_left_out} over {recipe.max_text_tokens} tokens were left out.",
    )
    package = Package.write(manifest, factor)
    (folder / f"{source.name}.safetensors").write_bytes(package.data)
    return package
