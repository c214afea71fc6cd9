"""
Trains the first half of the method (arXiv 2303.02861): teachers, then one metaprompt from them.

Every source has a teacher of its own; the metaprompt is trained with a factor for every source.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import torch

from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.errors import BadInput, Conflict
from galenic_adapters.training.datasets import Course, prepare
from galenic_adapters.training.init import Earlier, first_rows
from galenic_adapters.training.loop import Run
from galenic_adapters.training.losses import Teaching
from galenic_adapters.training.modules import (
    DensePrompts,
    FactorLearner,
    Factors,
    Learner,
    ScaleFactors,
)
from galenic_adapters.training.recipe import Recipe

TEACHERS = "teachers"
INPUTS = "inputs.json"


def learn_sources(
    recipe: Recipe,
    backbone: PromptedBackbone,
    folder: Path,
    *,
    data: Path = Path(),
    earlier: Earlier | None = None,
) -> tuple[FactorLearner, list[Course]]:
    """
    Train *recipe* on the files below *data* to its end, with checkpoints in *folder*.

    Starts from an *earlier* run's metaprompt and factors, or as the recipe says. Raises `BadInput`
    for faulty data and a loss that is not finite, `Conflict` if *folder* holds another run.
    """
    claim(folder, recipe, inputs_of(recipe, data))
    courses = read_sources(recipe, backbone, data)
    teachers = learn_teachers(recipe, courses, backbone, folder / TEACHERS)
    learner = learn_metaprompt(recipe, courses, backbone, folder, teachers, earlier)
    return learner, courses


def read_sources(recipe: Recipe, backbone: PromptedBackbone, data: Path) -> list[Course]:
    return [
        prepare(
            source,
            backbone.tokenizer,
            data=data,
            max_text_tokens=recipe.max_text_tokens,
            max_dev_examples=recipe.max_dev_examples,
        )
        for source in recipe.sources
    ]


def learn_teachers(
    recipe: Recipe, courses: Sequence[Course], backbone: PromptedBackbone, folder: Path
) -> Learner | None:
    """
    Train a teacher for every source, side by side; none if the recipe has no `teach` phase.

    A teacher is a dense prompt or has scales of its own. Each is returned as of its best dev
    evaluation, and frozen.
    """
    if recipe.teach is None:
        return None
    teachers = make_teachers(recipe, [course.name for course in courses], backbone)
    run = Run(
        teachers,
        backbone,
        courses,
        recipe.teach,
        folder,
        seed=recipe.seed,
        batch_tokens=recipe.batch_tokens,
    )
    run.finish("teachers")
    run.take_best()
    return teachers.requires_grad_(False)


def make_teachers(recipe: Recipe, names: Sequence[str], backbone: PromptedBackbone) -> Learner:
    """Make untrained teachers in the recipe's form."""
    if recipe.form == "scales":
        teachers = ScaleFactors(backbone.shape, names, recipe.places)
        teachers.shared.requires_grad_(False)
        return teachers
    return DensePrompts(backbone.embed_text(recipe.text, recipe.num_positions), names)


def learn_metaprompt(
    recipe: Recipe,
    courses: Sequence[Course],
    backbone: PromptedBackbone,
    folder: Path,
    teachers: Learner | None,
    earlier: Earlier | None = None,
) -> FactorLearner:
    """Train the student, that is the metaprompt and all factors, on the data and the teachers."""
    torch.manual_seed(recipe.seed)
    names = [course.name for course in courses]
    learner: FactorLearner
    if earlier:
        learner = earlier.learner(courses, backbone, recipe.rank)
        learner.shared.requires_grad_(True)
    elif recipe.form == "scales":
        learner = ScaleFactors(backbone.shape, names, recipe.places)
    else:
        dense = teachers if isinstance(teachers, DensePrompts) else None
        rows_PD = first_rows(recipe, backbone, dense)
        learner = Factors(rows_PD, names, recipe.rank, seed=recipe.seed)
    teaching = Teaching(teachers, recipe.distil) if teachers and recipe.distil else None
    run = Run(
        learner,
        backbone,
        courses,
        recipe.learn,
        folder,
        seed=recipe.seed,
        teaching=teaching,
        batch_tokens=recipe.batch_tokens,
    )
    run.finish("metaprompt")
    return learner


def claim(folder: Path, recipe: Recipe, inputs: Mapping[str, str]) -> None:
    """
    Reserve *folder* for this recipe's run on *inputs* (name to digest, or to a word).

    Writes both there. Raises `Conflict`, naming what differs, if the folder is another run's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, held = folder / "recipe.json", folder / INPUTS
    if path.exists() and (differ := _differing(Recipe.load(path), recipe)):
        problem = f"holds the run of another recipe ({', '.join(differ)})"
        raise Conflict(f"{folder} {problem}; choose another folder")
    known = json.loads(held.read_text("utf-8")) if held.exists() else {}
    for name, digest in inputs.items():
        if known.get(name, digest) != digest:
            problem = f"{name} is another than the run in {folder} began with"
            raise Conflict(f"{problem}; choose another folder, or delete that one to begin anew")
    held.write_text(json.dumps(dict(inputs), indent=2) + "\n", "utf-8")
    recipe.save(path)


def _differing(one: Recipe, other: Recipe) -> list[str]:
    return [f.name for f in fields(one) if getattr(one, f.name) != getattr(other, f.name)]


def inputs_of(recipe: Recipe, data: Path = Path()) -> dict[str, str]:
    """Return the digests of the files that *recipe*'s sources name, by name; raises `BadInput`."""
    named = [name for source in recipe.sources for name in (source.train, source.dev) if name]
    return {name: digest_of(data / name) for name in named}


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes; raises `BadInput` if it cannot be read."""
    try:
        with path.open("rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(path.name, f"cannot be read: {error.strerror or error}") from error
