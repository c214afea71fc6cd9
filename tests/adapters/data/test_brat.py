"""The standoff format, read from files as annotators save them."""

import pytest

from galenic_adapters.data.brat import read_brat
from galenic_adapters.data.documents import Link, Mention, Reason, Report
from galenic_adapters.errors import BadInput

TEXT = "🩺 Metformin 500 mg for diabetes.\r\nNo rash."
ANN = """T1\tDrug 2 11\tMetformin
T2\tStrength 12 18\t500 mg
T3\tReason 23 31\tdiabetes
R1\tStrength-Drug Arg1:T2 Arg2:T1\t
A1\tNegation T3
#1\tAnnotatorNotes T1\tsure
E1\tReason:T3 Theme2:T1
R2\tReason-Drug Arg1:E1 Arg2:T1
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ward").mkdir()
    (tmp_path / "ward/note.txt").write_bytes(TEXT.encode())
    (tmp_path / "ward/note.ann").write_bytes(ANN.encode())
    return tmp_path


@pytest.fixture
def report():
    return Report()


def test_offsets_are_code_points_of_the_text_as_it_lies_there(folder, report):
    """
    Neither the emoji, four bytes long, nor a line end of two characters moves anything.
    """
    (document,) = read_brat(folder, report)

    assert ("ward/note", TEXT) == (document.id, document.text)
    assert ["Metformin", "500 mg", "diabetes"] == [
        TEXT[slice(*mention.places[0])] for mention in document.mentions
    ]


def test_relations_and_events_are_links(folder, report):
    (document,) = read_brat(folder, report)

    assert (
        Link("Strength-Drug", "T2", "T1"),
        Link("Theme", "T3", "T1"),
        Link("Reason-Drug", "T3", "T1"),
    ) == document.links


def test_what_the_schema_has_no_place_for_is_counted(folder, report):
    list(read_brat(folder, report))

    assert ["ward/note.ann:5", "ward/note.ann:6"] == report.places[Reason.UNSAYABLE]


def test_a_discontinuous_mention_keeps_its_places(folder, report):
    (folder / "ward/note.ann").write_text("T1\tDrug 2 5;8 11\tMet min\n")

    (document,) = read_brat(folder, report)

    assert (Mention("T1", "Drug", ((2, 5), (8, 11)), "Met min"),) == document.mentions


def test_a_line_of_no_known_form_is_named(folder, report):
    (folder / "ward/note.ann").write_text("T1 Drug 2 5 Met\nT2\tDrug 2\tx\n\nhello\n")

    (document,) = read_brat(folder / "ward/note.ann", report)

    assert () == document.mentions
    assert [f"note.ann:{n}" for n in (1, 2, 4)] == report.places[Reason.MALFORMED]


def test_a_file_without_its_partner_is_left_out(folder, report):
    (folder / "lonely.txt").write_text("alone")
    (folder / "v1.2.ann").write_text("")

    assert ["ward/note"] == [document.id for document in read_brat(folder, report)]
    assert ["lonely", "v1.2"] == report.places[Reason.UNPAIRED]


def test_names_with_dots_stay_whole(folder, report):
    for suffix in (".txt", ".ann"):
        (folder / f"110.08{suffix}").write_text("")

    assert ["110.08", "ward/note"] == [document.id for document in read_brat(folder, report)]


def test_a_folder_without_notes_and_a_text_in_another_encoding_are_refused(folder, report):
    (folder / "empty").mkdir()
    (folder / "ward/note.txt").write_bytes(b"caf\xe9")

    with pytest.raises(BadInput, match=r"empty: holds no file that ends in \.txt or \.ann"):
        list(read_brat(folder / "empty", report))
    with pytest.raises(BadInput, match=r"note\.txt: is not UTF-8 at byte 3"):
        list(read_brat(folder, report))


def test_the_files_of_the_bionlp_shared_tasks_are_read_together(folder, report):
    (folder / "n.txt").write_text("IL-2 binds.")
    (folder / "n.a1").write_text("T1\tProtein 0 4\tIL-2\n")
    (folder / "n.a2").write_text("T2\tBinding 5 10\tbinds\nE1\tBinding:T2 Theme:T1\nM1 x\n")

    (document,) = read_brat(folder / "n.txt", report)

    assert ["Protein", "Binding"] == [mention.type for mention in document.mentions]
    assert (Link("Theme", "T2", "T1"),) == document.links
    assert {Reason.UNSAYABLE: ["n.a2:3"]} == report.places


def test_a_mark_is_no_part_of_the_first_mention(folder, report):
    (folder / "ward/note.ann").write_bytes(b"\xef\xbb\xbf" + ANN.encode())

    (document,) = read_brat(folder, report)

    assert ("T1", []) == (document.mentions[0].id, report.places.get(Reason.MALFORMED, []))


def test_what_systems_leave_beside_files_is_not_read(folder, report):
    (folder / "__MACOSX/ward").mkdir(parents=True)
    (folder / "__MACOSX/ward/._note.txt").write_bytes(b"\0\xff")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints/note.txt").write_text("old")

    assert ["ward/note"] == [document.id for document in read_brat(folder, report)]
    assert Reason.UNPAIRED not in report.places
