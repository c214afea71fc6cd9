"""The hub's own library reads folders too, which is how it is asked here without a network."""

import json
import sys

import pytest
from typer.testing import CliRunner

from galenic_adapters.cli.main import app
from galenic_adapters.data.examples import read_dataset
from galenic_adapters.data.hub import HubSet, hub_documents, hub_rows
from galenic_adapters.errors import BadInput, NotFound, Unavailable


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def save(tmp_path):
    """A folder in the hub's layout, its numbered classes told in its card as on the hub."""

    def save(rows, classes=None):
        folder = tmp_path / "set"
        folder.mkdir()
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if classes:
            features = [
                {"name": name, "dtype": {"class_label": {"names": names}}}
                if name != "ner_tags"
                else {"name": name, "list": {"class_label": {"names": names}}}
                for name, names in classes.items()
            ]
            rest = [
                {"name": name, **({"list": "string"} if name == "tokens" else {"dtype": "string"})}
                for name in rows[0]
                if name not in classes
            ]
            card = json.dumps({"dataset_info": {"features": rest + features}})
            (folder / "README.md").write_text(f"---\n{card}\n---\n")
        return str(folder)

    return save


TOKENS = {"tokens": ["took", "aspirin"], "ner_tags": [0, 1]}


def test_numbered_tags_are_read_as_the_classes_they_stand_for(save):
    name = save([TOKENS], {"ner_tags": ["O", "B-Drug"]})

    (document,) = hub_documents(HubSet(name))

    assert ("took aspirin", f"{name}/train/0") == (document.text, document.id)
    assert [("Drug", ((5, 12),))] == [(m.type, m.places) for m in document.mentions]


def test_tags_without_names_are_refused(save):
    with pytest.raises(BadInput, match="tags are not one of O, B-type"):
        list(hub_documents(HubSet(save([TOKENS]))))


def test_columns_go_by_our_names(save):
    row = {"stem": "Which?", "opa": "x", "opb": "y", "cop": 1}
    columns = {"question": "stem", "options.A": "opa", "options.B": "opb", "answer": "cop"}

    (made,) = hub_rows(HubSet(save([row]), columns=columns), "qa")

    assert {"question": "Which?", "options": {"A": "x", "B": "y"}, "answer": "B"} == {
        name: made[name] for name in ("question", "options", "answer")
    }
    assert "context" not in made


def test_a_column_that_is_not_there_is_named(save):
    source = HubSet(save([{"premise": "a", "label": "yes"}]))

    with pytest.raises(BadInput, match="no 'hypothesis' for 'hypothesis' among label, premise"):
        list(hub_rows(source, "nli"))


def test_a_name_that_no_hub_answers_for_and_a_set_that_is_not_there(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises((Unavailable, NotFound), match="no-such-owner/no-such-set"):
        list(hub_rows(HubSet("no-such-owner/no-such-set"), "nli"))
    with pytest.raises(NotFound, match=r"data set .*nowhere"):
        list(hub_rows(HubSet(str(tmp_path / "nowhere")), "nli"))


def test_without_the_library_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)

    with pytest.raises(BadInput, match="hub needs the library: pip install datasets"):
        list(hub_rows(HubSet("x/y"), "nli"))


def test_the_command_ends_with_a_file_that_training_reads(save, tmp_path):
    name = save([{"sentence1": "a", "hypothesis": "b", "label": 1}], {"label": ["no", "yes"]})
    arguments = ["convert-hub", name, str(tmp_path / "out.jsonl"), "--task", "nli"]

    result = CliRunner().invoke(app, [*arguments, "--column", "premise=sentence1"])

    assert 0 == result.exit_code, result.output
    assert ("yes",) == read_dataset(tmp_path / "out.jsonl", "nli").labels


def test_a_row_that_is_no_example_is_told_with_its_number(save, tmp_path):
    name = save([{"text": "a", "summary": "b"}, {"text": "a", "summary": ""}])

    result = CliRunner().invoke(
        app, ["convert-hub", name, str(tmp_path / "out.jsonl"), "--task", "summarization"]
    )

    assert (1, True) == (result.exit_code, "line 2: summary: is empty" in result.output)
    assert not (tmp_path / "out.jsonl").exists()
