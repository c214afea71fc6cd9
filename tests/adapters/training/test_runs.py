"""
The whole way of a data scientist: train, adapt, evaluate, each as its command does it.
"""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from galenic_adapters.cli.main import app
from galenic_adapters.package.file import Package, read_metaprompt
from galenic_adapters.training import runs
from galenic_adapters.training.modules import Factors
from galenic_adapters.training.recipe import Phase, Recipe


@pytest.fixture(scope="session")
def trained(tmp_path_factory, sources, backbone_path):
    folder = tmp_path_factory.mktemp("trained")
    recipe = Recipe(
        sources, Phase(20, 0.1, 0.03, dev_every=0), form="input", num_positions=8, rank=2
    )
    runs.train(recipe, folder, backbone=backbone_path, say=lambda said: None)
    return folder


def product(factor):
    u_PR, v_RD = factor.product
    return u_PR.float() @ v_RD.float()


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def adapted(trained, sources, backbone_path, tmp_path):
    source = sources[0]
    result = run(
        *("adapt", "mine", tmp_path / "run", "--task", "nli", "--data", source.train),
        *("--dev", source.dev, "--metaprompt", trained / "metaprompt.safetensors", "--rank", 2),
        *("--steps", 10, "--rows", 3, "--backbone", backbone_path, "--dataset", "made-up"),
    )
    assert 0 == result.exit_code, result.output
    return tmp_path / "run"


def test_training_ends_with_a_metaprompt_and_a_package_for_every_source(trained, sources):
    metaprompt = read_metaprompt((trained / "metaprompt.safetensors").read_bytes())
    packages = [Package.read((trained / f"{s.name}.safetensors").read_bytes()) for s in sources]

    assert {metaprompt.digest} == {package.manifest.metaprompt for package in packages}
    assert [("no", "yes"), ("Drug",)] == [package.manifest.labels for package in packages]
    assert "CC0-1.0" == packages[0].manifest.trained_on[0].licence
    assert (trained / "recipe.json").exists()


def test_a_run_goes_on_from_an_earlier_one(trained, sources, backbone_path, tmp_path):
    """With next to no rates it ends where it began: a new source as the mean of its task's."""
    new = replace(sources[0], name="new")
    still = Recipe(
        (*sources, new), Phase(1, 1e-9, 0.0, dev_every=0), form="input", num_positions=8, rank=2
    )
    still.save(tmp_path / "recipe.json")

    result = run(
        *("train", tmp_path / "recipe.json", tmp_path / "run", "--start", trained),
        *("--backbone", backbone_path),
    )

    assert 0 == result.exit_code, result.output
    before, after = (
        {path.stem: Package.read(path.read_bytes()) for path in folder.glob("n*.safetensors")}
        for folder in (trained, tmp_path / "run")
    )
    assert {before["nli"].manifest.metaprompt} == {
        one.manifest.metaprompt for one in after.values()
    }
    for name, origin in (("nli", "nli"), ("ner", "ner"), ("new", "nli")):
        torch.testing.assert_close(
            product(after[name].factor), product(before[origin].factor), atol=0.02, rtol=0.02
        )
    assert f"from metaprompt {before['nli'].manifest.metaprompt}" in str(
        after["new"].manifest.description
    )


def test_adapting_ends_with_a_package_over_the_same_metaprompt(trained, adapted):
    theirs = Package.read((trained / "nli.safetensors").read_bytes()).manifest
    mine = Package.read((adapted / "mine.safetensors").read_bytes()).manifest

    assert (theirs.metaprompt, theirs.backbone) == (mine.metaprompt, mine.backbone)
    assert ("mine", "made-up") == (mine.name, mine.trained_on[0].dataset)


def test_an_adaptation_starts_only_from_a_factor_of_its_metaprompt(
    trained, sources, backbone_path, tmp_path
):
    other = tmp_path / "other"
    recipe = replace(Recipe.load(trained / "recipe.json"), learn=Phase(1, 0.1, 0.1), seed=9)
    runs.train(recipe, other, backbone=backbone_path, say=lambda said: None)

    result = run(
        *("adapt", "mine", tmp_path / "run", "--task", "nli", "--data", sources[0].train),
        *("--metaprompt", trained / "metaprompt.safetensors", "--start", other / "nli.safetensors"),
        *("--rank", 2, "--backbone", backbone_path),
    )

    assert 1 == result.exit_code
    assert "manifest.metaprompt: is sha256:" in result.output


def test_what_is_odd_and_what_it_costs_is_said(trained, sources, backbone_path, tmp_path):
    """An entity inside another is told; so are parameters, their share, and bytes."""
    nested = {
        "id": "odd",
        "text": "took aspirin acid, then aspirin",
        "entities": [
            {"start": 5, "end": 17, "type": "Drug"},
            {"start": 5, "end": 12, "type": "Drug"},
        ],
    }
    data = tmp_path / "ner.jsonl"
    data.write_text(Path(sources[1].train).read_text() + json.dumps(nested) + "\n")

    result = adapting(trained, data, "ner", tmp_path / "run", backbone_path, "--start", "mean")

    assert 0 == result.exit_code, result.output
    assert "example odd: 1 of 2 entities cannot be answered" in result.output
    size = (tmp_path / "run" / "mine.safetensors").stat().st_size
    assert f"{2 * (8 + 64)} parameters" in result.output and f"{size:,} bytes" in result.output


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "data.jsonl: holds no example"),
        ([{"id": "1", "premise": "a", "hypothesis": "b", "label": "x"}], "holds 1 example, at l"),
        ([{"id": "1", "text": "a", "summary": "b"}], "line 1: task: has the fields of summariz"),
    ],
)
def test_data_that_cannot_be_learned_from(rows, problem, trained, backbone_path, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    result = adapting(trained, data, "nli", tmp_path / "run", backbone_path)

    assert (1, True) == (result.exit_code, problem in result.output), result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "rows", "problem"),
    [
        ("My Model", "yes", "name: is not a name"),
        ("mine", "yes" * 50, "labels.0: String should have at most 128 characters"),
        ("mine", "", "data.jsonl: line 1: label: is empty\ndata.jsonl: line 2: label: is empty"),
    ],
)
def test_names_and_data_are_checked_before_the_backbone_is_loaded(name, rows, problem, tmp_path):
    data = tmp_path / "data.jsonl"
    row = {"premise": "a", "hypothesis": "b", "label": rows}
    data.write_text("".join(json.dumps({"id": id_} | row) + "\n" for id_ in "ab"))

    result = run(
        *("adapt", name, tmp_path / "run", "--task", "nli", "--data", data),
        *("--backbone", tmp_path / "there-is-none"),
    )

    assert (1, True) == (result.exit_code, problem in result.output), result.output
    assert not (tmp_path / "run").exists()


def test_a_run_knows_its_data(trained, sources, backbone_path, tmp_path):
    """
    The same command goes on after a kill, and refuses where what it learned from has changed.
    """
    data = tmp_path / "nli.jsonl"
    data.write_bytes(Path(sources[0].train).read_bytes())
    assert 0 == adapting(trained, data, "nli", tmp_path / "run", backbone_path).exit_code
    data.write_text(data.read_text().replace('"yes"', '"aye"'))

    changed = adapting(trained, data, "nli", tmp_path / "run", backbone_path)
    begun = adapting(
        trained, sources[0].train, "nli", tmp_path / "run", backbone_path, "--steps", 11
    )

    assert (1, True) == (changed.exit_code, "nli.jsonl is another than the run" in changed.output)
    assert (1, True) == (begun.exit_code, "another recipe (sources, learn)" in begun.output)


def test_an_adapter_is_under_what_its_maker_says(trained, sources, backbone_path, tmp_path):
    def manifest(folder, *more):
        result = adapting(trained, sources[0].train, "nli", folder, backbone_path, *more)
        assert 0 == result.exit_code, result.output
        return Package.read((folder / "mine.safetensors").read_bytes()).manifest

    plain = manifest(tmp_path / "plain")
    said = manifest(tmp_path / "said", "--licence", "ours alone", "--data-licence", "CC0-1.0")

    assert ("not stated", "not stated") == (plain.licence, plain.trained_on[0].licence)
    assert ("ours alone", "CC0-1.0") == (said.licence, said.trained_on[0].licence)


def test_a_killed_adaptation_goes_on_and_ends_the_same(trained, sources, backbone_path, tmp_path):
    """Killed for good (SIGKILL), as soon as it has kept something."""
    command = [sys.executable, "-m", "galenic_adapters.cli"]
    command += adapt_arguments(trained, sources[0].train, "nli", tmp_path / "run", backbone_path)
    code = (
        "import galenic_adapters.training.loop as l, sys; l.CHECKPOINT_SECONDS = 0.0;"
        "from galenic_adapters.cli.command import main; sys.argv = sys.argv[1:]; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command[2:]], stdout=subprocess.DEVNULL
    )
    while not (tmp_path / "run" / "checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()

    resumed = adapting(trained, sources[0].train, "nli", tmp_path / "run", backbone_path)
    whole = adapting(trained, sources[0].train, "nli", tmp_path / "whole", backbone_path)

    assert (0, 0) == (resumed.exit_code, whole.exit_code), resumed.output + whole.output
    packages = [(tmp_path / one / "mine.safetensors").read_bytes() for one in ("run", "whole")]
    assert packages[0] == packages[1]


def adapt_arguments(trained, data, task, folder, backbone_path):
    return [
        *("adapt", "mine", str(folder), "--task", task, "--data", str(data), "--rank", "2"),
        *("--metaprompt", str(trained / "metaprompt.safetensors"), "--steps", "10"),
        *("--rows", "3", "--backbone", str(backbone_path)),
    ]


def adapting(trained, data, task, folder, backbone_path, *more):
    return run(*adapt_arguments(trained, data, task, folder, backbone_path), *more)


@pytest.mark.parametrize("positions", [64, 100])
def test_a_task_learns_at_most_a_two_thousandth_of_the_default_backbone(positions):
    """Of the rank that `galenic adapt` takes: 0.05 % of 134,515,008, and much less."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    smollm2 = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        total = sum(p.numel() for p in AutoModelForCausalLM.from_config(smollm2).parameters())
    learner = Factors(torch.zeros(positions, smollm2.hidden_size), ["a"], 16)

    assert 134_515_008 == total
    assert learner.num_own() <= runs.MOST_SHARE * total == pytest.approx(67257, abs=1)


def test_a_score_stands_beside_what_it_must_beat(trained, adapted, sources, backbone_path):
    """The untuned backbone, and who always gives the same label."""
    package = adapted / "mine.safetensors"
    result = run(
        *("evaluate", package, sources[0].dev, "--dataset", "made-up", "--split", "dev"),
        *("--metaprompt", trained / "metaprompt.safetensors", "--backbone", backbone_path),
    )

    assert 0 == result.exit_code, result.output
    accuracy, macro = Package.read(package.read_bytes()).manifest.scores
    assert ("accuracy", "macro_f1", 6) == (accuracy.metric, macro.metric, accuracy.num_examples)
    rows = [json.loads(row) for row in (adapted / "mine.dev.tuned.jsonl").read_text().splitlines()]
    assert pytest.approx(accuracy.value, abs=1e-4) == _share_right(rows, sources[0].dev)
    card = (adapted / "mine.md").read_text()
    shown = (accuracy.value, accuracy.untuned, accuracy.constant)
    assert "| made-up | dev | 6 | accuracy" + "".join(f" | {one:.3f}" for one in shown) in card
    said = (adapted / "mine.dev.constant.jsonl").read_text().splitlines()
    constant = [json.loads(row) for row in said]
    assert pytest.approx(accuracy.constant, abs=1e-4) == _share_right(constant, sources[0].dev)
    assert 1 == len({row["text"] for row in constant})


def test_scores_stay_where_nothing_new_is_learned(trained, adapted, sources, backbone_path):
    package, card = adapted / "mine.safetensors", adapted / "mine.md"
    files = ("--metaprompt", trained / "metaprompt.safetensors", "--backbone", backbone_path)
    assert 0 == run("evaluate", package, sources[0].dev, *files).exit_code
    before = package.read_bytes(), card.read_text()

    again = run(
        *("adapt", "mine", adapted, "--task", "nli", "--data", sources[0].train, "--rank", 2),
        *("--dev", sources[0].dev, "--steps", 10, "--rows", 3, "--dataset", "made-up", *files),
    )

    assert 0 == again.exit_code, again.output
    assert before == (package.read_bytes(), card.read_text())
    file = Path(sources[0].dev)
    assert f"| {file.parent.name}/{file.name} | test |" in card.read_text()


def test_the_untuned_backbone_need_not_be_asked_twice(trained, adapted, sources, backbone_path):
    def scores(*more):
        package = adapted / "mine.safetensors"
        result = run(
            *("evaluate", package, sources[0].dev, "--dataset", "made-up", "--split", "dev"),
            *("--metaprompt", trained / "metaprompt.safetensors", "--backbone", backbone_path),
            *more,
        )
        assert 0 == result.exit_code, result.output
        return Package.read(package.read_bytes()).manifest.scores

    assert scores() == scores("--untuned", adapted / "mine.dev.untuned.jsonl")


def _share_right(rows, data):
    gold = {r["id"]: r["label"] for r in map(json.loads, Path(data).read_text().splitlines())}
    return sum(gold[row["id"]] == row["text"] for row in rows) / len(rows)


def test_faulty_data_ends_the_command_with_its_lines(trained, backbone_path, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"id": 1}\n')

    result = run(
        *("adapt", "mine", tmp_path / "run", "--task", "nli", "--data", tmp_path / "bad.jsonl"),
        *("--metaprompt", trained / "metaprompt.safetensors", "--backbone", backbone_path),
    )

    assert (1, True) == (result.exit_code, "bad.jsonl: line 1: fields: missing" in result.output)
