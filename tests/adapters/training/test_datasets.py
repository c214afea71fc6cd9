import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from galenic_adapters.data.examples import read_dataset
from galenic_adapters.errors import BadInput
from galenic_adapters.training.datasets import drawn, prepare
from galenic_adapters.training.recipe import Recipe, Source


@pytest.fixture
def nli(tmp_path):
    rows = [
        {"id": str(i), "premise": f"text {i}", "hypothesis": "h", "label": "no" if i % 4 else "yes"}
        for i in range(40)
    ]
    path = tmp_path / "nli.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source("nli", "nli", str(path))


def test_examples_over_the_limit_are_left_out_and_counted(sources, backbone):
    lengths = sorted(len(e) for e in prepare(sources[0], backbone.tokenizer).train)

    course = prepare(sources[0], backbone.tokenizer, max_text_tokens=lengths[3])

    assert len(lengths) == len(course.train) + course.num_left_out
    assert course.num_left_out > 0
    with pytest.raises(BadInput, match="all 6 examples have more than 5 tokens"):
        prepare(sources[0], backbone.tokenizer, max_text_tokens=5)


def test_few_shots_are_drawn_evenly_and_by_the_draw(nli, backbone):
    examples = read_dataset(Path(nli.train), "nli").examples

    assert {"yes": 3, "no": 3} == Counter(one.value for one in drawn(examples, 6, "0"))
    assert drawn(examples, 6, "0") == drawn(examples, 6, "0") != drawn(examples, 6, "1")
    course = prepare(replace(nli, shots=4, draw=2), backbone.tokenizer)
    assert (4, ("no", "yes")) == (len(course.train), course.task.labels)


def test_a_tenth_is_held_out_where_there_is_no_dev_file(nli, backbone):
    course = prepare(nli, backbone.tokenizer, hold_out=True)

    assert (36, 4) == (len(course.train), len(course.dev))
    assert not set(course.train) & set(course.dev)
    assert 0 == len(prepare(nli, backbone.tokenizer).dev)


def test_a_closed_set_of_labels_holds_for_dev_too(nli, backbone):
    closed = replace(nli, labels=("yes", "maybe"))

    with pytest.raises(BadInput, match=r"nli\.jsonl: line 2: labels: 'no' is none of yes, maybe"):
        prepare(closed, backbone.tokenizer)


class TestRecipe:
    def test_is_the_same_after_a_round_trip(self, recipe, tmp_path):
        recipe.save(tmp_path / "r.json")

        assert recipe == Recipe.load(tmp_path / "r.json")

    def test_may_begin_with_a_byte_order_mark(self, recipe, tmp_path):
        recipe.save(tmp_path / "r.json")
        (tmp_path / "r.json").write_text((tmp_path / "r.json").read_text(), "utf-8-sig")

        assert recipe == Recipe.load(tmp_path / "r.json")

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("{", "is not a recipe"),
            ("[]", "should be a dictionary"),
            ('{"sources": []}', "learn: Field required"),
            ('{"sources": [], "learn": {"num_steps": 1, "lr": 1}}', "at least one is needed"),
            ('{"sources": [], "learn": {"num_steps": 1, "lr": 1}, "speed": 1}', "speed: Unexp"),
            ('{"sources": [], "learn": {"num_steps": 1, "lr": NaN}}', "learn.lr: .* finite"),
        ],
    )
    def test_a_file_that_is_none_is_refused(self, text, problem, tmp_path):
        (tmp_path / "r.json").write_text(text)

        with pytest.raises(BadInput, match=problem):
            Recipe.load(tmp_path / "r.json")

    def test_there_is_no_distillation_without_teachers(self, recipe):
        with pytest.raises(BadInput, match="no distillation without teachers"):
            replace(recipe, init="teachers")
