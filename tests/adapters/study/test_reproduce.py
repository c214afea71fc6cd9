"""
The whole study, as `galenic reproduce --preset smoke` runs it, on a tiny random backbone and data
made up here.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from re import findall

import pytest
import torch
from typer.testing import CliRunner

from galenic_adapters.cli.main import app
from galenic_adapters.data.examples import read_dataset
from galenic_adapters.package.file import Package, read_metaprompt
from galenic_adapters.study.preset import Preset
from tests.support.tiny_models import tiny_llama

DRUGS = ("aspirin", "metformin", "insulin", "heparin", "digoxin", "warfarin")


def ner(i):
    drug = DRUGS[i % 6]
    spans = [{"start": 5, "end": 5 + len(drug), "type": "Drug"}]
    return {"text": f"took {drug}", "entities": spans if i % 3 else []}


def re(i):
    drug = DRUGS[i % 6]
    head = {"start": 0, "end": len(drug), "type": "Drug"}
    tail = {"start": len(drug) + 8, "end": len(drug) + 12, "type": "Sign"}
    relation = "treats" if i % 2 else "none"
    return {"text": f"{drug} treats pain", "head": head, "tail": tail, "relation": relation}


def nli(i):
    return {
        "premise": f"{DRUGS[i % 6]} helps",
        "hypothesis": "true",
        "label": ["yes", "no"][i % 2],
    }


def summary(i):
    return {"text": f"he took {DRUGS[i % 6]} again and again", "summary": f"takes {DRUGS[i % 6]}"}


CATALOGUE = {
    "ncbi_disease": ("NER", "source", ner),
    "chemprot": ("RE", "source", re),
    "mqp": ("NLI", "source", nli),
    "hcm_sum": ("SUM", "source", summary),
    "phee_ner": ("NER", "target", ner),
    "scinli": ("NLI", "target", nli),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, (_, _, make) in CATALOGUE.items():
        (folder / name).mkdir()
        for split, size in (("train", 12), ("dev", 4), ("test", 6)):
            rows = [json.dumps({"id": f"{split}-{i}", **make(i)}) for i in range(size)]
            (folder / name / f"{split}.jsonl").write_text("\n".join(rows))
    entries = {
        name: {"task": task, "role": role, "licence": "CC0-1.0", "more": "is not looked at"}
        for name, (task, role, _) in CATALOGUE.items()
    }
    (folder / "catalogue.json").write_text(json.dumps({"datasets": entries}))
    return folder


@pytest.fixture(scope="module")
def backbone_path(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("llama"), tied=True)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def reproduce(folder, data, *more):
    arguments = ("reproduce", folder, "--data", data, "--preset", "smoke", *more)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def study(data, backbone_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    result = reproduce(folder, data, "--backbone", backbone_path)
    assert 0 == result.exit_code, result.output
    return folder


@pytest.fixture(scope="module")
def figures(study):
    return json.loads((study / "report.json").read_text())["figures"]


def test_every_method_has_a_figure_on_every_target(figures):
    methods = {figure["method"] for figure in figures if figure["target"] == "phee_ner"}

    assert {
        *("galenic", "prompt_tuning", "lora", "untuned", "untuned, instructed"),
        *("no_distillation", "no_decomposition", "no_metaprompt", "from_ones", "input"),
        *("sources_2", "places_kvf", "small_lora", "ia3"),
        *(f"{method} k={k}" for method in ("galenic", "prompt_tuning", "lora") for k in (0, 2)),
    } == methods
    assert methods == {figure["method"] for figure in figures if figure["target"] == "scinli"}


def test_the_best_constant_label_is_told(study):
    constants = json.loads((study / "report.json").read_text())["constants"]

    assert {"scinli"} == constants.keys()
    assert f"given has: scinli {constants['scinli']:.3f}." in (study / "report.md").read_text()


class TestOverAnEarlierRun:
    def run(self, study, data, backbone_path, folder, preset):
        run = ("--run", study / "sources" / "galenic", "--backbone", backbone_path)
        return reproduce(folder, data, *run, "--preset", preset, "--part", "main")

    def test_no_metaprompt_is_learned(self, study, data, backbone_path, tmp_path):
        result = self.run(study, data, backbone_path, tmp_path, "smoke")

        assert 0 == result.exit_code, result.output
        report = json.loads((tmp_path / "report.json").read_text())
        metaprompt = read_metaprompt(
            (study / "sources/galenic/metaprompt.safetensors").read_bytes()
        )
        package = tmp_path / "targets/galenic/packages/s0/scinli.safetensors"
        digests = {
            report["facts"]["metaprompt"],
            Package.read(package.read_bytes()).manifest.metaprompt,
        }
        assert {metaprompt.digest} == digests
        assert ["galenic"] == [path.name for path in (tmp_path / "sources").iterdir()]
        assert {"galenic", "lora"} < {figure["method"] for figure in report["figures"]}

    def test_every_source_has_a_factor_there(self, study, data, backbone_path, tmp_path):
        """The one that is missing is named, with the folder."""
        run = tmp_path / "run"
        shutil.copytree(study / "sources" / "galenic", run)
        (run / "chemprot.safetensors").unlink()
        result = reproduce(
            tmp_path / "study",
            data,
            *("--run", run, "--backbone", backbone_path, "--preset", "smoke", "--part", "main"),
        )

        assert 1 == result.exit_code
        assert f"chemprot: no factor of it over the metaprompt in {run}" in result.output


def test_seeds_and_draws_are_counted(figures):
    runs = {(f["method"], f["target"]): list(f["values"]) for f in figures}

    assert ["s0", "s1"] == runs["galenic", "phee_ner"] == runs["lora", "scinli"]
    assert ["d0", "d1"] == runs["prompt_tuning k=2", "scinli"]


def test_a_figure_comes_from_the_records_it_names(figures, study, data):
    gold = {e.id: e.value for e in read_dataset(data / "scinli" / "test.jsonl", "nli").examples}
    checked = [f for f in figures if f["target"] == "scinli"]

    for figure in checked:
        shares = []
        for name in figure["files"]:
            rows = [json.loads(row) for row in (study / name).read_text().splitlines()]
            shares.append(sum(row["text"] == gold[row["id"]] for row in rows) / len(rows))
        assert pytest.approx(sum(shares) / len(shares)) == figure["mean"], figure["method"]
    assert 20 == len(checked)


def test_the_report_shows_them(study, figures):
    report = (study / "report.md").read_text()
    ours = next(f for f in figures if (f["method"], f["target"]) == ("galenic", "scinli"))

    assert f"{ours['mean']:.3f} ± {ours['sd']:.3f}" in report
    assert "| galenic | 320 (" in report  # two layers of 64 and 96
    assert "| targets/galenic | 4 |" in report
    assert "| phee_ner | lora |" in report
    for picture in ("few_shot.png", "few_shot.svg", "variants.png", "variants.svg"):
        assert (study / picture).stat().st_size > 1000


def test_a_zoo_is_left_that_fits_together(study):
    metaprompt = read_metaprompt((study / "zoo" / "metaprompt.safetensors").read_bytes())

    for name in CATALOGUE:
        manifest = Package.read((study / "zoo" / f"{name}.safetensors").read_bytes()).manifest
        assert metaprompt.digest == manifest.metaprompt
        assert (name, "test", 6) == (
            manifest.scores[0].dataset,
            manifest.scores[0].split,
            manifest.scores[0].num_examples,
        )
        assert manifest.scores[0].untuned is not None
        has_labels = manifest.task in ("re", "nli")
        assert has_labels == (manifest.scores[0].constant is not None)
        assert (study / "zoo" / f"{name}.md").exists()


def test_a_zoos_defaults_gain_most_over_what_they_must_beat(study):
    gains = {}
    for name in CATALOGUE:
        manifest = Package.read((study / "zoo" / f"{name}.safetensors").read_bytes()).manifest
        main = manifest.scores[0]
        gain = main.value - max(main.untuned, main.constant or 0.0)
        gains.setdefault(manifest.task, {})[name] = gain
    defaults = json.loads((study / "zoo" / "defaults.json").read_text())

    assert len(gains) == len(defaults)
    for of_task in gains.values():
        (chosen,) = set(defaults) & of_task.keys()
        assert max(of_task.values()) == pytest.approx(of_task[chosen], abs=1e-3)


def test_pieces_that_are_done_are_not_done_again(study, data, backbone_path, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(study, again)
    shutil.rmtree(again / "targets" / "lora")

    result = reproduce(again, data, "--backbone", backbone_path)

    assert ["targets/lora"] == findall(r"([\w/]+) \.\.\.\n", result.output), result.output
    assert (study / "targets/lora/scinli.s0.jsonl").read_text() == (
        again / "targets/lora/scinli.s0.jsonl"
    ).read_text()


def test_a_killed_study_ends_as_if_it_had_not_been(study, data, backbone_path, tmp_path):
    """Killed for good (SIGKILL) in the middle of its pieces: every answer is the same."""
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "galenic_adapters.cli", "reproduce", str(killed)]
    command += ["--data", str(data), "--preset", "smoke", "--backbone", backbone_path]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while not (killed / "targets" / "prompt_tuning").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (killed / "report.md").exists()

    result = reproduce(killed, data, "--backbone", backbone_path)

    assert 0 == result.exit_code, result.output
    assert "sources/teachers ..." not in result.output
    names = sorted(path.relative_to(study) for path in study.rglob("*/*.s?.jsonl"))
    assert len(names) > 20
    for name in names:
        assert (study / name).read_text() == (killed / name).read_text(), name


def test_a_report_says_what_was_not_run(study, data, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(study, part)
    variants = Preset.load("smoke").variants
    for piece in (*(f"targets/{one}" for one in variants), "few_shot/galenic/k2"):
        shutil.rmtree(part / piece)
    for picture in part.glob("variants.*"):
        picture.unlink()

    result = reproduce(part, data, "--report-only")

    assert 0 == result.exit_code, result.output
    report = (part / "report.md").read_text()
    assert f"Not run: {', '.join(variants)}." in report
    assert "variants.svg" not in report
    assert not [*part.glob("variants.*")]
    assert "| ner | galenic | 0.000 | not run |" in report


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"seeds": 1}, "holds another study; choose another folder"),
        ({"seeds": "many"}, "seeds: Input should be a valid integer"),
        ({"targets": ["nothing"]}, "targets: nothing in the catalogue"),
        ({"speed": 1}, "speed: Unexpected keyword argument"),
    ],
)
def test_another_preset_in_the_same_folder(change, problem, study, data, backbone_path, tmp_path):
    preset = tmp_path / "other.json"
    preset.write_text(json.dumps(Preset.load("smoke").to_json() | change))

    result = reproduce(study, data, "--preset", preset, "--backbone", backbone_path)

    assert (1, True) == (result.exit_code, problem in result.output), result.output


def test_what_is_not_known_is_told_with_what_is(study, data):
    unknown = reproduce(study, data, "--preset", "nowhere")
    part = reproduce(study, data, "--part", "everything")

    assert "no preset 'nowhere': it is a file or one of cpu, gpu, more_targets" in unknown.output
    assert "everything is none of main, zoo, few_shot, variants" in part.output


def test_where_nothing_can_score_the_records_are_kept_for_later(study, data, monkeypatch, tmp_path):
    """A machine that lacks nervaluate."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(study, elsewhere)
    monkeypatch.setitem(sys.modules, "nervaluate", None)

    result = reproduce(elsewhere, data, "--report-only")

    assert 0 == result.exit_code
    assert "NER scores need nervaluate: pip install 'galenic[train]'; the rec" in result.output
