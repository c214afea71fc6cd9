"""BioC, the same collection as XML and as JSON."""

import json

import pytest

from galenic_adapters.data.bioc import read_bioc
from galenic_adapters.data.documents import Link, Mending, Reason, Report
from galenic_adapters.errors import BadInput

XML = """<?xml version="1.0" encoding="{encoding}"?>
<!DOCTYPE collection SYSTEM "BioC.dtd">
<collection><source>made up</source><date/><key/><document><id>7</id>
<passage><infon key="type">title</infon><offset>0</offset><text>Naïve 🩺 rash</text>
<annotation id="1"><infon key="type">Sign</infon><location offset="8" length="4"/>
<text>rash</text></annotation></passage>
<passage><offset>13</offset><text>Aspirin &amp; ear pain. Ear ache.</text>
<annotation id="2"><infon key="type">Drug</infon><location offset="13" length="7"/>
<text>Aspirin</text></annotation>
<annotation id="3"><infon key="type">Sign</infon><location offset="23" length="3"/>
<location offset="37" length="4"/><text>ear ache</text></annotation>
<relation id="R1"><infon key="type">causes</infon><node refid="2" role="cause"/>
<node refid="1" role="effect"/></relation></passage>
<relation id="R2"><infon key="relation">CID</infon></relation>
</document></collection>"""


def annotation(id_, type_, text, *places):
    locations = [{"offset": at, "length": length} for at, length in places]
    return {"id": id_, "infons": {"type": type_}, "text": text, "locations": locations}


DOCUMENT = {
    "id": "7",
    "infons": {},
    "passages": [
        {
            "offset": 0,
            "text": "Naïve 🩺 rash",
            "annotations": [annotation("1", "Sign", "rash", (8, 4))],
        },
        {
            "offset": 13,
            "text": "Aspirin & ear pain. Ear ache.",
            "annotations": [
                annotation("2", "Drug", "Aspirin", (13, 7)),
                annotation("3", "Sign", "ear ache", (23, 3), (37, 4)),
            ],
            "relations": [
                {
                    "id": "R1",
                    "infons": {"type": "causes"},
                    "nodes": [{"refid": "2"}, {"refid": "1"}],
                }
            ],
        },
    ],
    "relations": [{"id": "R2", "infons": {"relation": "CID"}, "nodes": []}],
}
FORMS = {
    "collection.xml": XML.format(encoding="UTF-8").encode(),
    "utf16.xml": XML.format(encoding="UTF-16").encode("utf-16"),
    "collection.json": json.dumps({"source": "made up", "documents": [DOCUMENT]}).encode(),
    "document.json": json.dumps(DOCUMENT).encode(),
    "lines.jsonl": json.dumps(DOCUMENT).encode() + b"\n",
    "marked.json": json.dumps([DOCUMENT]).encode("utf-8-sig"),
    "service.json": json.dumps({"PubTator3": [DOCUMENT]}).encode(),
}


@pytest.fixture
def read(tmp_path):
    report = Report()

    def read(name, data):
        (tmp_path / name).write_bytes(data)
        return list(read_bioc(tmp_path / name, report)), report

    return read


@pytest.mark.parametrize("name", list(FORMS))
def test_mentions_follow_their_passages(read, name):
    """
    A document's offsets run through its passages; in the joined text they say the same words.
    """
    (document,), report = read(name, FORMS[name])
    said = [[document.text[a:b] for a, b in m.places] for m in document.mentions]

    assert ("7", "Naïve 🩺 rash\nAspirin & ear pain. Ear ache.") == (document.id, document.text)
    assert [["rash"], ["Aspirin"], ["ear", "ache"]] == said
    assert (Link("causes", "2", "1"),) == document.links
    assert ["7/R2"] == report.places[Reason.UNSAYABLE]


def test_gaps_between_passages_may_have_any_length(read):
    shifted = json.loads(json.dumps(DOCUMENT).replace("13", "513").replace("37", "537"))
    shifted["passages"][1]["annotations"][1]["locations"][0]["offset"] = 523

    (document,), _ = read("far.json", json.dumps(shifted).encode())

    assert ["rash", "Aspirin", "ear"] == [
        document.text[slice(*mention.places[0])] for mention in document.mentions
    ]


def test_a_place_outside_of_its_passage_is_no_place(read):
    wrong = DOCUMENT | {"annotations": [annotation("9", "Sign", "rash", (10, 5))]}

    (document,), _ = read("wrong.json", json.dumps(wrong).encode())

    assert ((-1, -1),) == document.mentions[-1].places


def test_sentences_hold_the_text_where_passages_do_not(read):
    sentences = [{"offset": p["offset"], **p} for p in DOCUMENT["passages"]]
    document = {"id": "7", "passages": [{"offset": 0, "sentences": sentences}]}

    (found,), _ = read("sentences.json", json.dumps(document).encode())

    assert ["rash", "Aspirin", "ear"] == [
        found.text[slice(*mention.places[0])] for mention in found.mentions
    ]
    assert 1 == len(found.links)


def test_each_line_may_be_a_document(read):
    rows = [json.dumps(DOCUMENT | {"id": str(number)}) for number in range(3)]

    assert ["0", "1", "2"] == [one.id for one in read("x.json", "\n".join(rows).encode())[0]]


def passage(offset, text, *annotations, relations=()):
    return {"offset": offset, "text": text, "annotations": [*annotations], "relations": relations}


def relation(id_, *ids):
    return {"id": id_, "infons": {"type": "r"}, "nodes": [{"refid": one} for one in ids]}


def test_ids_that_begin_anew_in_each_passage_are_kept_apart(read):
    """
    A passage's relation means its own annotations; the document's relation cannot say which.
    """
    first = [annotation("1", "Sign", "rash", (0, 4)), annotation("2", "Drug", "gel", (5, 3))]
    second = [annotation("1", "Sign", "itch", (20, 4)), annotation("3", "Drug", "oil", (25, 3))]
    row = {
        "id": "7",
        "passages": [
            passage(0, "rash gel", *first, relations=[relation("R1", "1", "2")]),
            passage(20, "itch oil", *second, relations=[relation("R2", "1", "3")]),
        ],
        "relations": [relation("R3", "1", "2"), relation("R4", "2", "3")],
    }

    (document,), report = read("x.json", json.dumps(row).encode())

    assert ["1", "2", "1@2", "3"] == [mention.id for mention in document.mentions]
    assert {Link("r", "1", "2"), Link("r", "1@2", "3"), Link("r", "2", "3")} == set(document.links)
    assert {Mending.RENAMED: ["7@2"], Reason.AMBIGUOUS: ["7/R3"]} == report.places


BOMB = """<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><collection>&b;</collection>"""
OUTSIDE = """<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/hostname">]><collection>&f;</collection>"""


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("x.xml", BOMB.encode(), "is refused: EntitiesForbidden"),
        ("x.xml", OUTSIDE.encode(), "is refused: EntitiesForbidden"),
        ("x.xml", b"<collection>", "is not XML"),
        ("x.xml", b"<collection><document/></collection>", "is not BioC: KeyError: 'id'"),
        ("x.json", b"{", "is not JSON"),
        ("x.json", b"[" * 100_000, "is not JSON"),
        ("x.json", b'{"a": 1, "b": 2}', "is not BioC: KeyError: 'documents'"),
        (
            "x.json",
            b'{"documents": [{"id": 1, "passages": [{"text": "x"}]}]}',
            "is not BioC: KeyError: 'offset'",
        ),
        ("x.json", b"7", "is not BioC"),
        ("x.json", b"\xff", "is not UTF-8 at byte 0"),
    ],
)
def test_a_file_of_another_kind_is_named_and_nothing_in_it_is_followed(read, name, data, problem):
    with pytest.raises(BadInput, match=f"{name}: {problem}"):
        read(name, data)
