from dataclasses import replace

import pytest
import torch

from galenic_adapters.errors import BadInput, Conflict
from galenic_adapters.training.courses import prepare
from galenic_adapters.training.learn import Run, dev_loss, draws, learn, rate
from galenic_adapters.training.recipe import Recipe
from galenic_adapters.training.student import Student


def start(recipe, backbone):
    rows = backbone.embed_text(recipe.init, recipe.num_positions)
    return Student(rows, [s.name for s in recipe.sources], recipe.rank, seed=recipe.seed)


def dev_losses(student, courses, backbone):
    return {c.name: dev_loss(backbone, student.prompt(c.name), c.dev) for c in courses}


def test_joint_learning_learns_every_task(recipe, backbone, tmp_path):
    recipe = replace(recipe, num_steps=80)
    student, courses = learn(recipe, backbone, tmp_path)

    before = dev_losses(start(recipe, backbone), courses, backbone)
    after = dev_losses(student, courses, backbone)

    assert all(after[name] < 0.7 * before[name] for name in before), (before, after)


def test_a_frozen_metaprompt_stays_and_the_best_factor_is_kept(recipe, backbone, tmp_path):
    joint, _ = learn(recipe, backbone, tmp_path / "joint")
    metaprompt = joint.metaprompt(torch.float32)
    alone = replace(recipe, sources=recipe.sources[:1], num_steps=20, lr_factor=5.0, dev_every=1)

    student, courses = learn(alone, backbone, tmp_path / "alone", frozen=metaprompt)

    assert torch.equal(metaprompt.rows_PD, student.meta_PD)
    lowest = min(_logged_dev(tmp_path / "alone", "nli"))
    assert pytest.approx(lowest, rel=1e-5) == dev_losses(student, courses, backbone)["nli"]


def _logged_dev(folder, name):
    import json

    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [row["dev"][name] for row in rows if "dev" in row]


def test_a_killed_run_ends_as_if_it_had_not_been(recipe, backbone, tmp_path):
    """Same recipe, same folder: bit for bit the same student."""
    whole, courses = learn(recipe, backbone, tmp_path / "whole")

    student = start(recipe, backbone)
    folder = tmp_path / "killed"
    folder.mkdir()
    run = Run(recipe, backbone, folder, student, courses)
    for _ in range(7):
        run.learn_step()
    run.save()
    run.learn_step()  # lost with the kill
    resumed, _ = learn(recipe, backbone, folder)

    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key


def test_a_folder_belongs_to_one_recipe(recipe, backbone, tmp_path):
    recipe.save(tmp_path / "recipe.json")

    with pytest.raises(Conflict, match="another recipe"):
        learn(replace(recipe, seed=1), backbone, tmp_path)


def test_a_loss_that_is_no_number_stops_the_run(recipe, backbone, tmp_path):
    student = start(recipe, backbone)
    courses = [prepare(s, recipe, backbone.tokenizer) for s in recipe.sources]
    with torch.no_grad():
        student.v["nli"].fill_(float("nan"))

    with pytest.raises(BadInput, match="nli: the loss became nan; lower the learning rates"):
        Run(recipe, backbone, tmp_path, student, courses).learn_step()


def test_examples_over_the_limit_are_left_out_and_counted(recipe, backbone):
    source = recipe.sources[0]
    lengths = sorted(len(e) for e in prepare(source, recipe, backbone.tokenizer).train)

    course = prepare(source, replace(recipe, max_text_tokens=lengths[3]), backbone.tokenizer)

    assert len(lengths) == len(course.train) + course.num_left_out
    assert course.num_left_out > 0
    with pytest.raises(BadInput, match="all 6 examples have more than 5 tokens"):
        prepare(source, replace(recipe, max_text_tokens=5), backbone.tokenizer)


class TestRecipe:
    def test_is_the_same_after_a_round_trip(self, recipe, tmp_path):
        recipe.save(tmp_path / "r.json")

        assert recipe == Recipe.load(tmp_path / "r.json")

    @pytest.mark.parametrize("text", ["{", "[]", '{"sources": []}', '{"sources": [], "speed": 1}'])
    def test_a_file_that_is_none_is_refused(self, text, tmp_path):
        (tmp_path / "r.json").write_text(text)

        with pytest.raises(BadInput):
            Recipe.load(tmp_path / "r.json")

    def test_weights_draw_sources_in_proportion(self, recipe):
        first, second = recipe.sources
        skewed = replace(recipe, sources=(replace(first, weight=3.0), second), tasks_per_step=1)
        stream = draws(skewed)

        drawn = [name for _ in range(2000) for name in next(stream)]

        assert pytest.approx(0.75, abs=0.03) == drawn.count(first.name) / len(drawn)

    def test_the_rate_warms_up_and_falls(self, recipe):
        recipe = replace(recipe, num_steps=100, warmup=0.1)
        rates = [rate(step, recipe) for step in range(101)]

        assert (0.1, 1.0) == (rates[0], max(rates))
        assert pytest.approx(0.05) == rates[-1]
        assert rates[10:] == sorted(rates[10:], reverse=True)
