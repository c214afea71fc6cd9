"""
The methods that a study compares; each is one small object that builds what learns a target.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.backbone.tuning import Fixed, Tuning, Untuned
from galenic_adapters.errors import BadInput
from galenic_adapters.factor import Composed
from galenic_adapters.shape import PLACES
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
    Holds what a method may use to learn its targets.

    earlier: the metaprompt and its sources' factors; None for methods without a metaprompt.
    """

    courses: Sequence[Course]
    backbone: PromptedBackbone
    preset: Preset
    earlier: Earlier | None

    @property
    def names(self) -> list[str]:
        return [course.name for course in self.courses]


class Method(Protocol):
    """Builds what learns a target, and what answers without training."""

    @property
    def name(self) -> str: ...

    @property
    def own_recipe(self) -> Callable[[Recipe], Recipe] | None:
        """Return the change to the metaprompt's recipe, if the method needs its own metaprompt."""

    def rate(self, preset: Preset) -> float:
        """Return the peak learning rate."""

    def learner(self, given: Given) -> Learner:
        """Build the learner, one task per course."""

    def untaught(self, given: Given) -> Tuning:
        """Build the starting point, which has seen no example of the targets (0 shots)."""


@dataclass(frozen=True, slots=True)
class OverMetaprompt:
    """
    Trains a factor over a metaprompt that was trained on the sources.

    *start* overrides the preset's initial factor (see `start_factor`).
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
    """Trains scales of activations without a metaprompt ((IA)³, arXiv 2205.05638)."""

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
    """Trains a dense prompt for each target, initialized from text (arXiv 2104.08691)."""

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
    """
    Trains LoRA (arXiv 2106.09685) of all linear layers, or only of those called one of *layers*.

    Without *rank*, the preset's is used.
    """

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
    # The form of arXiv 2303.02861: a product scales the rows of a metaprompt at the input.
    OverMetaprompt("input", _at_the_input),
    OverMetaprompt("no_distillation", _undistilled),
    # alpha / rank is 2, as it is for rank 8.
    LowRank("small_lora", 1, 2.0, ("k_proj", "v_proj")),
    PlainScales("ia3", ("k", "v", "f")),
    PlainScales("no_metaprompt", ("o", "f")),
    # Sources train the metaprompt alone, without factors of their own.
    OverMetaprompt(
        "no_decomposition", lambda r: replace(r, learn=replace(r.learn, lr=0.0)), "ones"
    ),
    OverMetaprompt("from_ones", start="ones"),
)


def method_of(name: str) -> Method:
    """
    Return the method called *name*; raises `BadInput` for an unknown one.

    ``sources_N`` is our method on the first N sources only, ``places_kvf`` our method with scales
    at k, v and f, and ``plain_kvf`` scales at these places without a metaprompt.
    """
    if found := next((method for method in _METHODS if method.name == name), None):
        return found
    kind, _, what = name.rpartition("_")
    if kind == "sources" and what.isdigit():
        return OverMetaprompt(name, lambda r: replace(r, sources=r.sources[: int(what)]))
    if kind in ("places", "plain") and what and set(what) <= set(PLACES):
        places = tuple(what)
        if kind == "plain":
            return PlainScales(name, places)
        return OverMetaprompt(name, lambda r: replace(_undistilled(r), places=places))  # type: ignore[arg-type]
    raise BadInput("variants", f"{name[:40]!r} is not known")
