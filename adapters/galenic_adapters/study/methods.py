"""
The ways to learn a target that a study compares: each method is one small object.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from galenic_adapters.backbone.prompted import Fixed, PromptedBackbone, Tuning, Untuned
from galenic_adapters.errors import BadInput
from galenic_adapters.factor import PLACES, Composed
from galenic_adapters.study.preset import Preset
from galenic_adapters.training.datasets import Course
from galenic_adapters.training.init import Earlier, start_factor
from galenic_adapters.training.lora import Loras
from galenic_adapters.training.modules import (
    DensePrompts,
    Learner,
    ScaleFactors,
    learner_over,
)
from galenic_adapters.training.recipe import TEXT, Recipe

MAIN = "galenic"
COMPARED = (MAIN, "prompt_tuning", "lora")
"""The methods of the main table and of the few-shot curves."""
BASELINES = ("input", "no_distillation", "small_lora", "ia3")
"""Variants that run with every seed and are compared as methods are."""


@dataclass(frozen=True, slots=True)
class Given:
    """
    What every method is given to learn targets with.

    earlier: the metaprompt and its sources' factors, where the method needs them.
    """

    courses: Sequence[Course]
    backbone: PromptedBackbone
    preset: Preset
    earlier: Earlier | None

    @property
    def names(self) -> list[str]:
        return [course.name for course in self.courses]


class Method(Protocol):
    """One way to learn a target."""

    @property
    def name(self) -> str: ...

    @property
    def own_recipe(self) -> Callable[[Recipe], Recipe] | None:
        """How the method changes the recipe of its metaprompt, where it needs one of its own."""

    def rate(self, preset: Preset) -> float:
        """The peak learning rate."""

    def learner(self, given: Given) -> Learner:
        """Build what learns, one task a course."""

    def untaught(self, given: Given) -> Tuning:
        """Build what answers before an example was seen."""


@dataclass(frozen=True, slots=True)
class OverMetaprompt:
    """
    A factor over a metaprompt from the sources, learned from the preset's start; *start* is for
    methods that begin elsewhere.
    """

    name: str
    own_recipe: Callable[[Recipe], Recipe] | None = None
    start: str | None = None

    def rate(self, preset: Preset) -> float:
        return preset.rates.of(self.name)

    def learner(self, given: Given) -> Learner:
        return self._over(given, self.start or given.preset.start)

    def untaught(self, given: Given) -> Tuning:
        return self._over(given, "task").to(given.backbone.device)

    def _over(self, given: Given, how: str) -> Learner:
        assert given.earlier is not None, "a factor needs a metaprompt"
        metaprompt, known = given.earlier.metaprompt, given.earlier.known
        rank = given.preset.rank
        starts = [
            start_factor(how, known, course, given.backbone, metaprompt, rank)
            for course in given.courses
        ]
        return learner_over(metaprompt, given.names, starts, given.backbone.shape)


@dataclass(frozen=True, slots=True)
class PlainScales:
    """Scales without any metaprompt ((IA)³, arXiv 2205.05638)."""

    name: str
    places: tuple[str, ...]
    own_recipe: None = None

    def rate(self, preset: Preset) -> float:
        return preset.rates.of(self.name)

    def learner(self, given: Given) -> Learner:
        learner = ScaleFactors(given.backbone.shape, given.names, self.places)
        learner.shared.requires_grad_(False)
        return learner

    def untaught(self, given: Given) -> Tuning:
        return Untuned()


@dataclass(frozen=True, slots=True)
class PromptTuning:
    """A dense prompt of a target's own, from text (arXiv 2104.08691)."""

    name: str = "prompt_tuning"
    own_recipe: None = None

    def rate(self, preset: Preset) -> float:
        return preset.rates.of(self.name)

    def learner(self, given: Given) -> Learner:
        return DensePrompts(_text_rows(given), given.names)

    def untaught(self, given: Given) -> Tuning:
        return Fixed([Composed(_text_rows(given))] * len(given.courses))


@dataclass(frozen=True, slots=True)
class LowRank:
    """LoRA (arXiv 2106.09685) of all linear layers, or of *layers*; *rank* none is the preset's."""

    name: str = "lora"
    rank: int | None = None
    alpha: float = 16.0
    layers: tuple[str, ...] = ()
    own_recipe: None = None

    def rate(self, preset: Preset) -> float:
        return preset.rates.of(self.name)

    def learner(self, given: Given) -> Learner:
        rank, model = self.rank or given.preset.lora_rank, given.backbone.model
        return Loras(model, given.names, rank, alpha=self.alpha, layers=self.layers)

    def untaught(self, given: Given) -> Tuning:
        return Untuned()


def _text_rows(given: Given) -> Tensor:
    return given.backbone.embed_text(TEXT, given.preset.num_positions)


def _undistilled(recipe: Recipe) -> Recipe:
    return replace(recipe, teach=None, distil=None, init="text")


def _at_the_input(recipe: Recipe) -> Recipe:
    return replace(_undistilled(recipe), form="input", learn=replace(recipe.learn, lr=0.1))


_METHODS: tuple[Method, ...] = (
    OverMetaprompt(MAIN),
    PromptTuning(),
    LowRank(),
    # The paper's plain form: a product that scales the rows of a metaprompt at the input.
    OverMetaprompt("input", _at_the_input),
    OverMetaprompt("no_distillation", _undistilled),
    # Updates are scaled by 2, as those of rank 8 are.
    LowRank("small_lora", 1, 2.0, ("k_proj", "v_proj")),
    PlainScales("ia3", ("k", "v", "f")),
    PlainScales("no_metaprompt", ("o", "f")),
    # The shared part alone learns from the sources, and no source has a factor of its own.
    OverMetaprompt(
        "no_decomposition", lambda r: replace(r, learn=replace(r.learn, lr=0.0)), "ones"
    ),
    OverMetaprompt("from_ones", start="ones"),
)


def method_of(name: str) -> Method:
    """
    The method of that name; ``sources_N`` is ours from the first N sources, ``places_kvf`` ours in
    other places, ``plain_kvf`` scales there without a metaprompt. Raises `BadInput`.
    """
    if found := next((one for one in _METHODS if one.name == name), None):
        return found
    kind, _, what = name.rpartition("_")
    if kind == "sources" and what.isdigit():
        return OverMetaprompt(name, lambda r: replace(r, sources=r.sources[: int(what)]))
    if kind in ("places", "plain") and what and set(what) <= set(PLACES):
        places = tuple(what)
        if kind == "plain":
            return PlainScales(name, places)
        return OverMetaprompt(name, lambda r: replace(r, places=places))  # type: ignore[arg-type]
    raise BadInput("variants", f"{name[:40]!r} is not known")
