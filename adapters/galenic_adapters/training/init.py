"""
The values that learning starts from: the metaprompt's rows, and a new task's factor.

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
"""Training examples of the target that every source's prompt is tried on."""


def first_rows(
    recipe: Recipe, backbone: PromptedBackbone, teachers: DensePrompts | None = None
) -> Tensor:
    """The metaprompt's rows (P, D) before it learns, as *recipe*.init says."""
    if recipe.init == "teachers":
        assert teachers is not None
        return teachers.rows_KPD.detach().mean(0)
    if recipe.init == "vocabulary":
        return backbone.embed_vocabulary(recipe.num_positions, seed=recipe.seed)
    return backbone.embed_text(recipe.text, recipe.num_positions)


@dataclass(frozen=True, slots=True)
class Known:
    """A factor that was learned already, of which task it is, and which data sets it has seen."""

    name: str
    task: str
    factor: Factor
    seen: frozenset[str] = frozenset()

    def has_seen(self, course: Course) -> bool:
        """Tell whether it learned from the data that *course* is about to learn from."""
        return bool({self.name, *self.seen} & {course.name, course.source.dataset})


def known_in(folder: Path, backbone: BackboneId, metaprompt: Metaprompt) -> list[Known]:
    """Read the factors in *folder* that were learned over this very metaprompt."""
    found = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            package = Package.read(path.read_bytes())
        except RejectedUpload:
            continue  # the metaprompt's own file
        manifest = package.manifest
        if (manifest.backbone, manifest.metaprompt) == (backbone, metaprompt.digest):
            seen = frozenset(one.dataset for one in manifest.trained_on)
            found.append(Known(path.stem, str(manifest.task), package.factor, seen))
    return found


@dataclass(frozen=True, slots=True)
class Earlier:
    """The metaprompt and the factors of an earlier run, for another to go on from."""

    metaprompt: Metaprompt
    known: Sequence[Known]

    @classmethod
    def of(cls, folder: Path, backbone: BackboneId) -> Self:
        """Raises `NotFound` where the folder holds no metaprompt."""
        metaprompt = metaprompt_of(backbone, folder / METAPROMPT)
        return cls(metaprompt, known_in(folder, backbone, metaprompt))

    def learner(
        self, courses: Sequence[Course], backbone: PromptedBackbone, rank: int
    ) -> FactorLearner:
        """Each course from its own factor; a new one from the mean of its task's."""
        starts = []
        for course in courses:
            own = [one for one in self.known if one.name == course.name]
            alike = own or [one for one in self.known if one.task == course.source.task]
            starts.append(mean_of([one.factor for one in alike or self.known], rank))
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
    The factor that *course* starts from: ``ones``; the ``mean`` of the known ones, or of those of
    the same ``task``; or the ``nearest``, under which its training examples are likeliest.

    No start has seen the course's data: such factors are left out here, whoever calls. Products
    are cut or filled up to *rank*. Raises `BadInput` where none is known.
    """
    if how == "ones":
        return ones_of(metaprompt, rank)
    known = [one for one in known if not one.has_seen(course)]
    if not known:
        raise BadInput("start", f"{how!r} needs factors over this metaprompt, and there are none")
    if how == "nearest":
        return mean_of([nearest(known, course, backbone, metaprompt).factor], rank)
    alike = [one for one in known if one.task == course.source.task] if how == "task" else []
    return mean_of([one.factor for one in alike or known], rank)


def nearest(
    known: Sequence[Known], course: Course, backbone: PromptedBackbone, metaprompt: Metaprompt
) -> Known:
    """The known factor under which the first training examples of *course* are likeliest."""
    highest = max(one.factor.rank for one in known)
    factors = [mean_of([one.factor], highest) for one in known]
    names = [one.name for one in known]
    tried = learner_over(metaprompt, names, factors, backbone.shape).to(backbone.device)
    examples = [course.train[:NEAREST_BY]] * len(known)
    nats = mean_losses(backbone, tried, examples, BATCH_TOKENS[backbone.device.type])
    return known[min(nats, key=lambda k: nats[k])]
