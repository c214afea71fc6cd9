import json
import resource
from dataclasses import replace

import pytest
import torch

from galenic_adapters.errors import BadInput, Conflict
from galenic_adapters.training.datasets import prepare
from galenic_adapters.training.loop import Run, dev_losses, rate
from galenic_adapters.training.lora import Loras
from galenic_adapters.training.metaprompt import learn_sources
from galenic_adapters.training.modules import DensePrompts, Factors, ones_factor
from galenic_adapters.training.recipe import Distillation, Phase
from galenic_adapters.training.targets import learn_targets

P = 8
PHASE = Phase(num_steps=12, lr=0.1, rows_per_source=3, temperature=1e9, dev_every=4)


@pytest.fixture(scope="module")
def courses(sources, backbone):
    return [prepare(source, backbone.tokenizer) for source in sources]


@pytest.fixture
def start_PD(backbone):  # noqa: N802  # a tensor, named by its shape
    return backbone.embed_text("Answer briefly.", P)


def run_of(learner, backbone, courses, folder, phase=PHASE, **more):
    folder.mkdir(exist_ok=True)
    return Run(learner, backbone, courses, phase, folder, **more)


def same(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(torch.equal(a, b) for (_, a), (_, b) in pairs)


class TestTheMethod:
    def test_teachers_then_a_student_learn_every_task(self, recipe, backbone, tmp_path):
        recipe = replace(
            recipe,
            teach=Phase(num_steps=25, lr=0.03, dev_every=25),
            learn=replace(recipe.learn, num_steps=40),
            distil=Distillation(),
            init="teachers",
        )
        learner, courses = learn_sources(recipe, backbone, tmp_path)

        rows = backbone.embed_text(recipe.text, P)
        before = dev_losses(backbone, DensePrompts(rows, learner.names), courses, 512)
        after = dev_losses(backbone, learner, courses, 512)

        assert all(after[name] < 0.7 * before[name] for name in before), (before, after)
        assert (tmp_path / "teachers" / "checkpoint.pt").exists()

    def test_over_a_frozen_metaprompt_the_best_factor_is_kept(
        self, recipe, backbone, courses, start_PD, tmp_path
    ):
        metaprompt = Factors(start_PD, ["x"], 2).metaprompt(torch.float32)
        wild = Phase(num_steps=15, lr=5.0, dev_every=1)
        starts = [ones_factor(P, backbone.width, 2)] * len(courses)

        learner = learn_targets(metaprompt, starts, courses, backbone, wild, tmp_path)

        assert torch.equal(metaprompt.rows_PD, learner.shared)
        for name, nats in dev_losses(backbone, learner, courses, 512).items():
            assert pytest.approx(min(_logged_dev(tmp_path, name)), rel=1e-4) == nats

    def test_a_folder_belongs_to_one_recipe(self, recipe, backbone, tmp_path):
        recipe.save(tmp_path / "recipe.json")

        with pytest.raises(Conflict, match="another recipe"):
            learn_sources(replace(recipe, seed=1), backbone, tmp_path)


def _logged_dev(folder, name):
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [row["dev"][name] for row in rows if "dev" in row]


class TestSideBySide:
    """What a task learns does not depend on who learns beside it."""

    @pytest.mark.parametrize("kind", ["dense", "factors", "lora"])
    def test_together_as_alone(self, kind, backbone, courses, start_PD, tmp_path):
        def learned(courses, folder):
            names = [course.name for course in courses]
            if kind == "lora":
                learner = Loras(backbone.model, names, 2)
                phase = replace(PHASE, lr=1e-3)
            else:
                make = DensePrompts if kind == "dense" else Factors
                learner = make(start_PD, names, **{} if kind == "dense" else {"rank": 2})
                phase = replace(PHASE, lr=0.03)
            run = run_of(learner, backbone, courses, folder, phase)
            if kind == "lora":
                with learner.attached():
                    run.finish()
            else:
                run.finish()
            return learner

        together = learned(courses, tmp_path / "together")
        alone = learned(courses[1:], tmp_path / "alone")

        for name, mine in alone.own().items():
            torch.testing.assert_close(together.own()[name][1], mine[0], atol=2e-3, rtol=1e-2)

    def test_the_size_of_a_batch_is_no_part_of_the_recipe(
        self, backbone, courses, start_PD, tmp_path
    ):
        small, large = (DensePrompts(start_PD, ["nli", "ner"]) for _ in range(2))
        for learner, tokens in ((small, 64), (large, 4096)):
            run = run_of(learner, backbone, courses, tmp_path, batch_tokens=tokens)
            run.learn_step()

        torch.testing.assert_close(small.rows_KPD, large.rows_KPD, atol=1e-4, rtol=1e-3)


class TestInterrupted:
    def test_a_killed_run_ends_as_if_it_had_not_been(self, backbone, courses, start_PD, tmp_path):
        """Bit for bit, and its log has every step once."""
        whole, killed, resumed = (Factors(start_PD, ["nli", "ner"], 2) for _ in range(3))
        run_of(whole, backbone, courses, tmp_path / "whole").finish()

        run = run_of(killed, backbone, courses, tmp_path / "killed")
        rows = [run.learn_step() for _ in range(7)]
        run.save(rows)
        run.learn_step()  # lost with the kill
        run_of(resumed, backbone, courses, tmp_path / "killed").finish()

        assert same(whole, resumed)
        log = (tmp_path / "killed" / "log.jsonl").read_text().splitlines()
        assert list(range(1, 13)) == [json.loads(row)["step"] for row in log]

    def test_a_full_disk_is_told_and_loses_nothing(self, backbone, courses, start_PD, tmp_path):
        learner = DensePrompts(start_PD, ["nli", "ner"])
        run = run_of(learner, backbone, courses, tmp_path)
        run.save([run.learn_step()])
        kept = (tmp_path / "checkpoint.pt").read_bytes()
        rows = [run.learn_step()]
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(BadInput, match=r"checkpoint.pt: cannot be written: File .* step 2"):
                run.save(rows)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

        assert kept == (tmp_path / "checkpoint.pt").read_bytes()
        assert not list(tmp_path.glob("*.part"))

    def test_a_loss_that_is_no_number_stops_the_run(self, backbone, courses, start_PD, tmp_path):
        learner = DensePrompts(start_PD, ["nli", "ner"])
        with torch.no_grad():
            learner.rows_KPD[0] = float("nan")

        with pytest.raises(BadInput, match="nli: the loss became nan; lower the learning rates"):
            run_of(learner, backbone, courses, tmp_path).learn_step()


def test_a_run_without_gain_stops_early(backbone, courses, start_PD, tmp_path):
    learner = DensePrompts(start_PD, ["nli", "ner"])
    stuck = Phase(num_steps=50, lr=1e-30, dev_every=2, patience=3)
    run = run_of(learner, backbone, courses, tmp_path, stuck)
    run.finish()

    assert 8 == run.step  # the first look is a gain, the next three are none


def test_the_rate_warms_up_and_falls():
    phase = Phase(num_steps=100, lr=1.0, warmup=0.1)
    rates = [rate(step, phase) for step in range(101)]

    assert (0.1, 1.0) == (rates[0], max(rates))
    assert pytest.approx(0.05) == rates[-1]
    assert rates[10:] == sorted(rates[10:], reverse=True)
