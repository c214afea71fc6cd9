"""
Chooses the values that training starts from: the metaprompt's rows and a new task's factor.

Dimension key:  P prompt positions   D model width   K tasks
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import Tensor

from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.errors import BadInput, RejectedUpload
from galenic_adapters.factor import Factor, Metaprompt
from galenic_adapters.package.file import Package
from galenic_adapters.package.manifest import BackboneId
from galenic_adapters.package.zoo import METAPROMPT, metaprompt_of
from galenic_adapters.training.datasets import Course
from galenic_adapters.training.loop import BATCH_TOKENS, mean_losses
from galenic_adapters.training.modules import (
    DensePrompts,
    FactorLearner,
    learner_over,
    mean_of,
    ones_of,
)
from galenic_adapters.training.recipe import Recipe

NEAREST_BY = 32
"""Training examples of the target on which every known factor's loss is computed."""


def first_rows(
    recipe: Recipe, backbone: PromptedBackbone, teachers: DensePrompts | None = None
) -> Tensor:
    """Return the metaprompt's initial rows (P, D), chosen by *recipe*.init."""
    if recipe.init == "teachers":
        assert teachers is not None
        return teachers.rows_KPD.detach().mean(0)
    if recipe.init == "vocabulary":
        return backbone.embed_vocabulary(recipe.num_positions, seed=recipe.seed)
    return backbone.embed_text(recipe.text, recipe.num_positions)


@dataclass(frozen=True, slots=True)
class Known:
    """Holds a trained factor with its task and the data sets it was trained on."""

    name: str
    task: str
    factor: Factor
    seen: frozenset[str] = frozenset()

    def has_seen(self, course: Course) -> bool:
        """Tell whether it was trained on the data that *course* is about to train on."""
        return bool({self.name, *self.seen} & {course.name, course.source.dataset})


def known_in(folder: Path, backbone: BackboneId, metaprompt: Metaprompt) -> list[Known]:
    """Read the factors in *folder* that were trained over this very metaprompt."""
    found = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            package = Package.read(path.read_bytes())
        except RejectedUpload:
            continue  # the metaprompt's own file
        manifest = package.manifest
        if (manifest.backbone, manifest.metaprompt) == (backbone, metaprompt.digest):
            seen = frozenset(source.dataset for source in manifest.trained_on)
            found.append(Known(path.stem, str(manifest.task), package.factor, seen))
    return found


@dataclass(frozen=True, slots=True)
class Earlier:
    """Holds the metaprompt and the factors of an earlier run, from which another continues."""

    metaprompt: Metaprompt
    known: Sequence[Known]

    @classmethod
    def of(cls, folder: Path, backbone: BackboneId) -> Self:
        """Read them from *folder*. Raises `NotFound` if it holds no metaprompt."""
        metaprompt = metaprompt_of(backbone, folder / METAPROMPT)
        return cls(metaprompt, known_in(folder, backbone, metaprompt))

    def learner(
        self, courses: Sequence[Course], backbone: PromptedBackbone, rank: int
    ) -> FactorLearner:
        """
        Make a learner that continues the known factors.

        A course without a factor of its name starts from the mean over its task, or over all.
        """
        starts = []
        for course in courses:
            own = [known for known in self.known if known.name == course.name]
            alike = own or [known for known in self.known if known.task == course.source.task]
            starts.append(mean_of([known.factor for known in alike or self.known], rank))
        return learner_over(self.metaprompt, [c.name for c in courses], starts, backbone.shape)


def start_factor(
    how: str,
    known: Sequence[Known],
    course: Course,
    backbone: PromptedBackbone,
    metaprompt: Metaprompt,
    rank: int,
) -> Factor:
    """
    Choose the factor that *course* starts from.

    *how*: ``ones``; the ``mean`` of the known factors; the mean of those of the same ``task`` (of
    all, if there is none); or the ``nearest``, which has the lowest loss on its training examples.
    Factors trained on the course's data are never used. Products are truncated or padded to
    *rank*. Raises `BadInput` if no factor is left.
    """
    if how == "ones":
        return ones_of(metaprompt, rank)
    known = [other for other in known if not other.has_seen(course)]
    if not known:
        raise BadInput("start", f"{how!r} needs factors over this metaprompt, and there are none")
    if how == "nearest":
        return mean_of([nearest(known, course, backbone, metaprompt).factor], rank)
    alike = [other for other in known if other.task == course.source.task] if how == "task" else []
    return mean_of([other.factor for other in alike or known], rank)


def nearest(
    known: Sequence[Known], course: Course, backbone: PromptedBackbone, metaprompt: Metaprompt
) -> Known:
    """Return the known factor with the lowest loss on *course*'s first training examples."""
    highest = max(other.factor.rank for other in known)
    factors = [mean_of([other.factor], highest) for other in known]
    names = [other.name for other in known]
    tried = learner_over(metaprompt, names, factors, backbone.shape).to(backbone.device)
    examples = [course.train[:NEAREST_BY]] * len(known)
    nats = mean_losses(backbone, tried, examples, BATCH_TOKENS[backbone.device.type])
    return known[min(nats, key=lambda k: nats[k])]
