"""
The stages of a study: train teachers, metaprompts, targets, and targets from few examples.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.backbone.tuning import Tuning, Untuned
from galenic_adapters.errors import BadInput
from galenic_adapters.package.manifest import BackboneId
from galenic_adapters.package.zoo import METAPROMPT
from galenic_adapters.study.catalogue import Listed
from galenic_adapters.study.exams import Exam, Sitting, sit
from galenic_adapters.study.instructed import Instructed
from galenic_adapters.study.methods import BASELINES, COMPARED, MAIN, Given, method_of
from galenic_adapters.study.preset import Preset
from galenic_adapters.tasks.base import Example
from galenic_adapters.training.datasets import Course, drawn, encode_course
from galenic_adapters.training.init import Earlier
from galenic_adapters.training.loop import BATCH_TOKENS, Run, dev_losses
from galenic_adapters.training.metaprompt import (
    learn_metaprompt,
    learn_teachers,
    make_teachers,
    read_sources,
)
from galenic_adapters.training.modules import FactorLearner, Learner, learner_over
from galenic_adapters.training.publish import publish_factor, publish_metaprompt
from galenic_adapters.training.recipe import Phase, Recipe

TEACHERS = "teachers.safetensors"
DEV_LOSSES = "dev_losses.json"
LEARNED = "learned.json"
"""The file with the number of trained parameters per target."""


@dataclass(frozen=True)
class Study:
    """
    Holds what all stages need; data are read once, on first use.

    run: the folder of a finished `galenic train` whose metaprompt is studied, if none is trained.
    """

    preset: Preset
    backbone: PromptedBackbone
    backbone_id: BackboneId
    data: Path
    sources: Sequence[Listed]
    exams: Sequence[Exam]
    run: Path | None = None

    @property
    def batch_tokens(self) -> int:
        return BATCH_TOKENS[self.backbone.device.type]

    @cached_property
    def source_courses(self) -> list[Course]:
        return read_sources(self.recipe(MAIN), self.backbone, self.data)

    @cached_property
    def target_courses(self) -> list[Course]:
        """Encode the targets with all their training examples."""
        return [
            self._course(exam, exam.listed.read("train").examples, with_dev=True)
            for exam in self.exams
        ]

    @cached_property
    def _target_examples(self) -> list[tuple[Example, ...]]:
        return [exam.listed.read("train").examples for exam in self.exams]

    def given(self, courses: Sequence[Course], source: Path | None) -> Given:
        """Collect what a method needs for *courses*, with the metaprompt in *source*, if any."""
        earlier = Earlier.of(source, self.backbone_id) if source else None
        return Given(courses, self.backbone, self.preset, earlier)

    def few(self, which: int, shots: int, draw: int) -> Course:
        """Encode target number *which* with *shots* training examples and no dev set."""
        exam = self.exams[which]
        chosen = drawn(self._target_examples[which], shots, str(draw))
        return named(self._course(exam, chosen, with_dev=False), f"d{draw}")

    def _course(self, exam: Exam, train: Sequence[Example], *, with_dev: bool) -> Course:
        dev = exam.listed.read("dev").examples[: self.preset.max_dev] if with_dev else ()
        return encode_course(
            exam.listed.source(),
            exam.task,
            train,
            dev,
            self.backbone.tokenizer,
            max_text_tokens=self.preset.max_text_tokens,
        )

    def recipe(self, variant: str) -> Recipe:
        """Return the recipe for the metaprompt of *variant*; `galenic` is the unchanged method."""
        preset = self.preset
        whole = Recipe(
            tuple(source.source() for source in self.sources),
            preset.student,
            teach=preset.teach,
            distil=preset.distil,
            num_positions=preset.num_positions,
            rank=preset.rank,
            init=preset.init,
            max_text_tokens=preset.max_text_tokens,
            max_dev_examples=preset.max_dev,
        )
        change = method_of(variant).own_recipe
        return change(whole) if change else whole


def named(course: Course, run: str) -> Course:
    """Rename *course* for one run; the sampler seeds the order of examples by this name."""
    return replace(course, source=replace(course.source, name=f"{course.name}.{run}"))


# Sources


def teach(study: Study, folder: Path) -> None:
    """Train a teacher for every source, and save all of them in *folder*."""
    recipe = study.recipe(MAIN)
    teachers = learn_teachers(recipe, study.source_courses, study.backbone, folder)
    assert teachers is not None
    state = {name: tensor.cpu().contiguous() for name, tensor in teachers.state_dict().items()}
    save_file(state, folder / TEACHERS)


def distil(study: Study, variant: str, folder: Path, teachers_folder: Path) -> None:
    """Train the metaprompt of *variant*, and write it with its sources' factors into *folder*."""
    recipe = study.recipe(variant)
    courses = study.source_courses[: len(recipe.sources)]
    teachers = None
    if recipe.teach:
        teachers = _taught(recipe, courses, study.backbone, load_file(teachers_folder / TEACHERS))
    learner = learn_metaprompt(recipe, courses, study.backbone, folder, teachers)
    metaprompt = publish_metaprompt(learner, folder)
    for which, course in enumerate(courses):
        publish_factor(
            learner.factor(which),
            course,
            folder,
            metaprompt=metaprompt,
            backbone=study.backbone_id,
            how=f"{variant} of a study, {recipe.learn.num_steps} steps",
        )


def _taught(
    recipe: Recipe,
    courses: Sequence[Course],
    backbone: PromptedBackbone,
    state: dict[str, Tensor],
) -> Learner:
    """Restore the saved teachers of the first sources, as many as there are *courses*."""
    teachers = make_teachers(recipe, [course.name for course in courses], backbone)
    own = set(teachers.own())
    teachers.load_state_dict(
        {name: tensor[: len(courses)] if name in own else tensor for name, tensor in state.items()}
    )
    return teachers.to(backbone.device).requires_grad_(False)


def take_over(study: Study, run: Path, folder: Path) -> None:
    """
    Copy the metaprompt and the sources' factors from *run*, instead of training them.

    Raises `BadInput` if a source of the study has no factor there.
    """
    known = {k.name for k in Earlier.of(run, study.backbone_id).known}
    for name in (source.name for source in study.sources):
        if name not in known:
            raise BadInput(name, f"no factor of it over the metaprompt in {run}")
        shutil.copy(run / f"{name}.safetensors", folder)
    for name in (METAPROMPT, "recipe.json", "log.jsonl"):
        if (run / name).exists():
            shutil.copy(run / name, folder)


# Targets


def seeded(study: Study, seeds: int) -> tuple[list[Course], list[Sitting]]:
    """Return a course for every target and seed, and the test that each is scored on."""
    pairs = [(which, f"s{seed}") for which in range(len(study.exams)) for seed in range(seeds)]
    courses = [named(study.target_courses[which], run) for which, run in pairs]
    sittings = [
        Sitting(number, run, study.exams[which]) for number, (which, run) in enumerate(pairs)
    ]
    return courses, sittings


def on_targets(study: Study, method: str, folder: Path, source: Path | None = None) -> None:
    """
    Train *method* on every target and seed side by side, and run the tests.

    *source* is the folder of the metaprompt, for methods that have one.
    """
    is_compared = method in (*COMPARED, *BASELINES)
    seeds = study.preset.seeds if is_compared else study.preset.variant_seeds
    courses, sittings = seeded(study, seeds)
    learner = _learn_and_sit(study, method, courses, sittings, study.preset.target, folder, source)
    if method == MAIN and source and isinstance(learner, FactorLearner):
        _publish(study, learner, courses, sittings, folder, source)


def on_few(study: Study, method: str, shots: int, folder: Path, source: Path) -> None:
    """Train *method* on *shots* examples, once per draw, and test; with 0, test its start."""
    few = study.preset.few_shot
    exams = [exam.first(few.max_test) for exam in study.exams]
    if shots == 0:
        sittings = [Sitting(which, "d0", exam) for which, exam in enumerate(exams)]
        given = study.given(study.target_courses, source)
        _sit(study, method_of(method).untaught(given), sittings, folder)
        return
    pairs = [(which, draw) for which in range(len(exams)) for draw in range(few.draws)]
    courses = [study.few(which, shots, draw) for which, draw in pairs]
    sittings = [
        Sitting(number, f"d{draw}", exams[which]) for number, (which, draw) in enumerate(pairs)
    ]
    _learn_and_sit(study, method, courses, sittings, few.phase, folder, source)


def _learn_and_sit(
    study: Study,
    method: str,
    courses: Sequence[Course],
    sittings: Sequence[Sitting],
    budget: Phase,
    folder: Path,
    source: Path | None,
) -> Learner:
    how = method_of(method)
    phase = replace(budget, lr=how.rate(study.preset))
    learner = how.learner(study.given(courses, source))
    with learner.attached():
        run = Run(learner, study.backbone, courses, phase, folder)
        run.finish(method)
        run.take_best()
        _sit(study, learner, sittings, folder)
    (folder / LEARNED).write_text(json.dumps({"num_parameters": learner.num_own()}), "utf-8")
    return learner


def _publish(
    study: Study,
    learner: FactorLearner,
    courses: Sequence[Course],
    sittings: Sequence[Sitting],
    folder: Path,
    source: Path,
) -> None:
    """Write every target's package of every seed, and the dev losses that choose among seeds."""
    metaprompt = Earlier.of(source, study.backbone_id).metaprompt
    for which, sitting in enumerate(sittings):
        plain = replace(courses[which], source=sitting.exam.listed.source())
        into = folder / "packages" / sitting.run
        into.mkdir(parents=True, exist_ok=True)
        publish_factor(
            learner.factor(which),
            plain,
            into,
            metaprompt=metaprompt,
            backbone=study.backbone_id,
            how=f"Over a frozen metaprompt, {study.preset.target.num_steps} steps, {sitting.run}",
        )
    nats = dev_losses(study.backbone, learner, courses, study.batch_tokens)
    (folder / DEV_LOSSES).write_text(json.dumps(nats, indent=2) + "\n", "utf-8")


def _sit(
    study: Study, tuning: Tuning, sittings: Sequence[Sitting], folder: Path, **how: Any
) -> None:
    sit(study.backbone, tuning, sittings, folder, max_tokens=study.preset.max_tokens, **how)


def untuned(study: Study, folder: Path) -> None:
    """Test the untuned backbone under the tasks' own instruction, and under a detailed one."""
    for run, wording in (("plain", None), ("instructed", Instructed)):
        sittings = [Sitting(0, run, exam) for exam in study.exams]
        _sit(study, Untuned(), sittings, folder, wording=wording)


def on_sources(study: Study, exams: Sequence[Exam], folder: Path, source: Path) -> None:
    """Test the sources' factors and the untuned backbone on the sources' test sets."""
    earlier = Earlier.of(source, study.backbone_id)
    factors = {known.name: known.factor for known in earlier.known}
    names = [exam.listed.name for exam in exams]
    own = [factors[name] for name in names]
    learner = learner_over(earlier.metaprompt, names, own, study.backbone.shape)
    _sit(
        study,
        learner.to(study.backbone.device),
        [Sitting(which, "s0", exam) for which, exam in enumerate(exams)],
        folder,
    )
    _sit(study, Untuned(), [Sitting(0, "plain", exam) for exam in exams], folder)
