from dataclasses import replace

import pytest
import torch

from galenic_adapters.errors import BadInput
from galenic_adapters.factor import Metaprompt
from galenic_adapters.training.init import Known, first_rows, start_factor
from galenic_adapters.training.metaprompt import learn_sources
from galenic_adapters.training.recipe import Phase

P = 8


@pytest.fixture(scope="module")
def known(sources, backbone, tmp_path_factory):
    """Factors that learned one task each, over a metaprompt that they share."""
    from galenic_adapters.training.recipe import Recipe

    learn = Phase(num_steps=60, lr=0.1, lr_shared=0.03, dev_every=0)
    recipe = Recipe(sources, learn, form="input", num_positions=P, rank=2)
    learner, courses = learn_sources(recipe, backbone, tmp_path_factory.mktemp("known"))
    factors = [
        Known(course.name, course.source.task, learner.factor(k), frozenset({course.name}))
        for k, course in enumerate(courses)
    ]
    return Metaprompt(learner.shared.detach().clone()), factors, courses


def product(factor):
    u_PR, v_RD = factor.product
    return u_PR @ v_RD


def another(course):
    """A course of the same examples that no factor has seen."""
    return replace(course, source=replace(course.source, name="another", dataset="unseen"))


def close(expected, actual):
    """As far as a decomposition in float32 goes."""
    torch.testing.assert_close(expected, actual, atol=1e-5, rtol=1e-4)


def test_the_nearest_is_the_one_that_learned_the_same(known, backbone):
    metaprompt, factors, courses = known

    for own, course in zip(factors, courses, strict=True):
        start = start_factor("nearest", factors, another(course), backbone, metaprompt, 2)
        close(product(own.factor), product(start))


def test_mean_task_and_ones(known, backbone):
    metaprompt, factors, courses = known
    mean = (product(factors[0].factor) + product(factors[1].factor)) / 2

    def start(how):
        target = another(courses[0])
        return product(start_factor(how, factors, target, backbone, metaprompt, 4))

    close(mean, start("mean"))
    close(product(factors[0].factor), start("task"))
    assert torch.equal(torch.ones(P, backbone.width), start("ones"))


@pytest.mark.parametrize("how", ["nearest", "task", "mean"])
def test_no_start_has_seen_the_target(known, backbone, how):
    """A factor of the target's name or data set is left out, whoever asks for a start."""
    metaprompt, factors, courses = known
    seen = [
        replace(factors[0], name="renamed", seen=frozenset({courses[0].source.dataset})),
        replace(factors[0], name=courses[0].name, seen=frozenset()),
    ]

    with pytest.raises(BadInput, match="needs factors over this metaprompt, and there are none"):
        start_factor(how, seen, courses[0], backbone, metaprompt, 2)
    start = start_factor(how, [*seen, factors[1]], courses[0], backbone, metaprompt, 2)

    close(product(factors[1].factor), product(start))


def test_nothing_known_is_told(known, backbone):
    metaprompt, _, courses = known

    with pytest.raises(BadInput, match="'mean' needs factors over this metaprompt"):
        start_factor("mean", [], courses[0], backbone, metaprompt, 2)


def test_a_metaprompt_may_begin_as_the_mean_of_teachers(recipe, backbone):
    from galenic_adapters.training.modules import DensePrompts

    teachers = DensePrompts(torch.randn(P, backbone.width), ["a", "b"])
    with torch.no_grad():
        teachers.rows_KPD[1] += 2
    recipe = replace(recipe, init="teachers", teach=recipe.learn)

    rows_PD = first_rows(recipe, backbone, teachers)

    torch.testing.assert_close(teachers.rows_KPD[0] + 1, rows_PD)
