import json

import pytest

from galenic_adapters.data.documents import Link, Reason, Report
from galenic_adapters.data.pubannotation import read_pubannotation
from galenic_adapters.errors import BadInput

ROW = {
    "text": "🩺 left and right kidney pain",
    "sourcedb": "Notes",
    "sourceid": "12",
    "denotations": [
        {"id": "T1", "span": {"begin": 2, "end": 6}, "obj": "Organ"},
        {"id": "T2", "span": {"begin": 17, "end": 23}, "obj": "_FRAGMENT"},
        {"id": "T3", "span": {"begin": 11, "end": 23}, "obj": "Organ"},
        {"id": "T4", "span": [{"begin": 2, "end": 6}, {"begin": 24, "end": 28}], "obj": "Sign"},
    ],
    "relations": [
        {"id": "R1", "subj": "T2", "pred": "_lexicallyChainedTo", "obj": "T1"},
        {"id": "R2", "subj": "T4", "pred": "in", "obj": "T3"},
    ],
    "attributes": [{"id": "A1", "subj": "T1", "pred": "side", "obj": "left"}],
}


@pytest.fixture
def read(tmp_path):
    report = Report()

    def read(text, name="note.json"):
        (tmp_path / name).write_text(text)
        return list(read_pubannotation(tmp_path / name, report)), report

    return read


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("one.json", json.dumps(ROW, indent=1)),
        ("list.json", json.dumps([ROW])),
        ("lines.jsonl", json.dumps(ROW) + "\n\n"),
    ],
)
def test_bags_and_chains_are_mentions_in_several_places(read, name, text):
    (document,), report = read(text, name)
    said = {m.id: [document.text[a:b] for a, b in m.places] for m in document.mentions}

    assert "Notes/12" == document.id
    assert {"T1": ["left", "kidney"], "T3": ["right kidney"], "T4": ["left", "pain"]} == said
    assert (Link("in", "T4", "T3"),) == document.links
    assert ["Notes/12/A1"] == report.told[Reason.UNSAYABLE]


def test_mentions_need_no_ids(read):
    bare = {"text": "a b", "denotations": [{"span": {"begin": i, "end": i + 1}, "obj": "X"}
                                           for i in (0, 2)]}  # fmt: skip
    (document,), _ = read(json.dumps(bare))

    assert ["note-0", "#0", "#1"] == [document.id, *(mention.id for mention in document.mentions)]


RING = [{"subj": "T1", "pred": "_lexicallyChainedTo", "obj": "T2"},
        {"subj": "T2", "pred": "_lexicallyChainedTo", "obj": "T1"}]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("{}", "item 0 is not PubAnnotation: KeyError: 'text'"),
        ("[7]", "item 0 is not PubAnnotation"),
        (json.dumps(ROW | {"relations": RING}), "fragments are chained in a ring"),
        (json.dumps(ROW | {"tracks": [{}]}), "it holds tracks of several projects"),
    ],
)
def test_a_file_of_another_kind_is_named(read, text, problem):
    with pytest.raises(BadInput, match=r"note\.json: .*" + problem):
        read(text)
