"""
The whole way of a data scientist: train, adapt, evaluate, each as its command does it.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from galenic_adapters.cli import app
from galenic_adapters.package import Package, read_metaprompt
from galenic_adapters.training import commands
from galenic_adapters.training.recipe import Recipe


@pytest.fixture(scope="session")
def trained(tmp_path_factory, sources, backbone_path):
    folder = tmp_path_factory.mktemp("trained")
    recipe = Recipe(sources=sources, num_positions=8, rank=2, num_steps=20, batch_tokens=512)
    commands.train(recipe, folder, backbone=backbone_path, say=lambda said: None)
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def adapted(trained, sources, backbone_path, tmp_path):
    source = sources[0]
    result = run(
        *("adapt", "mine", tmp_path / "run", "--task", "nli", "--data", source.train),
        *("--dev", source.dev, "--metaprompt", trained / "metaprompt.safetensors", "--rank", 2),
        *("--steps", 10, "--backbone", backbone_path, "--dataset", "made-up"),
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


def test_adapting_ends_with_a_package_over_the_same_metaprompt(trained, adapted):
    theirs = Package.read((trained / "nli.safetensors").read_bytes()).manifest
    mine = Package.read((adapted / "mine.safetensors").read_bytes()).manifest

    assert (theirs.metaprompt, theirs.backbone) == (mine.metaprompt, mine.backbone)
    assert ("mine", "made-up") == (mine.name, mine.trained_on[0].dataset)


def test_an_adaptation_starts_only_from_a_factor_of_its_metaprompt(
    trained, sources, backbone_path, tmp_path
):
    other = tmp_path / "other"
    recipe = replace(Recipe.load(trained / "recipe.json"), num_steps=1, seed=9)
    commands.train(recipe, other, backbone=backbone_path, say=lambda said: None)

    result = run(
        *("adapt", "mine", tmp_path / "run", "--task", "nli", "--data", sources[0].train),
        *("--metaprompt", trained / "metaprompt.safetensors", "--start", other / "nli.safetensors"),
        *("--rank", 2, "--backbone", backbone_path),
    )

    assert 1 == result.exit_code
    assert "manifest.metaprompt: is sha256:" in result.output


def test_a_score_stands_beside_the_untuned_backbones(trained, adapted, sources, backbone_path):
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
    assert (
        f"| made-up | dev | 6 | accuracy | {accuracy.value:.3f} | {accuracy.untuned:.3f} |" in card
    )


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

    assert (1, True) == (result.exit_code, "bad.jsonl: line 1: missing" in result.output)
