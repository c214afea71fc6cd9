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
    assert ["Notes/12/A1"] == report.places[Reason.UNSAYABLE]


def test_mentions_need_no_ids(read):
    bare = {"text": "a b", "denotations": [{"span": {"begin": i, "end": i + 1}, "obj": "X"}
                                           for i in (0, 2)]}  # fmt: skip
    (document,), _ = read(json.dumps(bare))

    assert ["note-0", "#0", "#1"] == [document.id, *(mention.id for mention in document.mentions)]


OLD = {
    "source_db": "PMC",
    "source_id": "9",
    "division_id": "1",
    "text": "IL-2 binds.",
    "catanns": [
        {"id": "T1", "span": {"begin": 0, "end": 4}, "category": "Protein"},
        {"id": 2, "begin": 5, "end": 10, "category": "Binding"},
    ],
    "insanns": [{"id": "E1", "type": "subClassOf", "object": "T1"}],
    "relanns": [{"id": "R1", "type": "themeOf", "subject": "E1", "object": "T1"}],
    "modanns": [{"id": "M1", "type": "Negation", "object": "E1"}],
}


def test_files_of_the_first_years_are_read(read):
    (document,), report = read(json.dumps(OLD))

    assert [("T1", "Protein", ((0, 4),)), ("2", "Binding", ((5, 10),))] == [
        (mention.id, mention.type, mention.places) for mention in document.mentions
    ]
    assert ("PMC/9/1", (Link("themeOf", "T1", "T1"),)) == (document.id, document.links)
    assert {Reason.UNSAYABLE: ["PMC/9/1/M1"]} == report.places


@pytest.mark.parametrize(
    ("label", "read_as", "num_told"),
    [(["Disease", "C0004096"], "Disease", 1), (7, "7", 0), ({"a": 1}, "", 0), ([], "", 0)],
)
def test_of_several_labels_the_first_counts_and_the_others_are_told(read, label, read_as, num_told):
    row = {"text": "gout", "denotations": [{"span": {"begin": 0, "end": 4}, "obj": label}]}

    (document,), report = read(json.dumps(row))

    assert (read_as, num_told) == (document.mentions[0].type, report.num(Reason.UNSAYABLE))


def test_lists_of_a_name_that_is_not_known_are_told(read):
    _, report = read(json.dumps(OLD | {"spans": [{"begin": 0}, {"begin": 3}], "namespaces": [{}]}))

    assert ["PMC/9/1/M1", "PMC/9/1/spans", "PMC/9/1/spans"] == sorted(
        report.places[Reason.UNSAYABLE]
    )


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
