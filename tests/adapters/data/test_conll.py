import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galenic_adapters.data.conll import Columns, entities, read_conll
from galenic_adapters.data.documents import Reason, Report
from galenic_adapters.errors import BadInput

FILE = """-DOCSTART- -X- O O

Acute NN B-Disease
renal NN I-Disease
failure NN I-Disease
, , O
🩺 SYM O
aspirin NN B-Drug

None NN O
"""


@pytest.fixture
def read(tmp_path):
    report = Report()

    def read(text, columns=Columns()):  # noqa: B008  it is frozen
        (tmp_path / "train.conll").write_bytes(text.encode())
        return list(read_conll(tmp_path, report, columns)), report

    return read


def said(document):
    return [(m.type, document.text[slice(*m.places[0])]) for m in document.mentions]


@pytest.mark.parametrize("change", [("", ""), (" ", "\t"), ("\n", "\r\n"), (" ", "   ")])
def test_the_text_is_its_tokens_and_offsets_fit_it(read, change):
    (first, second), report = read(FILE.replace(*change) if change[0] else FILE)

    assert ("train:3", "Acute renal failure , 🩺 aspirin") == (first.id, first.text)
    assert [("Disease", "Acute renal failure"), ("Drug", "aspirin")] == said(first)
    assert ("None", []) == (second.text, said(second))
    assert {} == report.places


def test_comments_are_no_tokens_and_a_hash_is_one(read):
    (document,), report = read("# id = 7\n# id 5239\taf12\n# SYM O\n#1 SYM O\n")

    assert ("# #1", {}) == (document.text, report.places)


def test_columns_may_stand_elsewhere(read):
    (document,), _ = read("B-Drug x aspirin\n", Columns(token=2, tag=0))

    assert [("Drug", "aspirin")] == said(document)


def test_a_line_without_token_or_tag_is_in_no_text_and_named(read):
    """
    Headers of abstracts and of columns are no tokens.
    """
    text = "###MEDLINE:9\n\nToken\tTag\naspirin\tB-Drug\n\tI-Drug\nhelps\tO\n"

    (document,), report = read(text)

    assert ("aspirin helps", [("Drug", "aspirin")]) == (document.text, said(document))
    assert [f"train.conll:{n}" for n in (1, 3, 5)] == report.places[Reason.MALFORMED]


def test_marks_of_files_that_were_put_together_are_in_no_text(read):
    first, second = read("\ufeffaspirin B-Drug\n\n\ufeffhelps O\n")[0]

    assert ("aspirin", "helps") == (first.text, second.text)


def test_a_line_without_the_column_is_refused(read):
    with pytest.raises(BadInput, match=r"train\.conll: line 2: 2 columns, no token and tag there"):
        read("a b O\naspirin O\n", Columns(tag=2))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-X I-X O B-X B-X", [("X", 0, 1), ("X", 3, 3), ("X", 4, 4)]),  # IOB2
        ("I-X I-X O I-X B-X I-Y", [("X", 0, 1), ("X", 3, 3), ("X", 4, 4), ("Y", 5, 5)]),  # IOB1
        ("B-X I-X E-X S-X O S-Y", [("X", 0, 2), ("X", 3, 3), ("Y", 5, 5)]),  # IOBES
        ("B-X I-X L-X U-X O U-Y", [("X", 0, 2), ("X", 3, 3), ("Y", 5, 5)]),  # BILOU
        ("B I O B", [("Entity", 0, 1), ("Entity", 3, 3)]),
        ("E-X E-X", [("X", 0, 0), ("X", 1, 1)]),
        ("B-X-ray I-X-ray", [("X-ray", 0, 1)]),
        ("O", []),
        ("", []),
    ],
)
def test_all_schemes_are_read_as_conlleval_does(tags, expected):
    assert expected == list(entities(tags.split()))


SPANS = st.lists(st.tuples(st.sampled_from("XY"), st.integers(1, 3), st.integers(0, 2)))


@settings(deadline=None)  # machines differ
@given(SPANS)
def test_tags_say_the_entities_that_made_them(parts):
    """
    Whatever stands in a row, IOB2 and IOBES lead back to it.
    """
    expected, iob2, iobes = [], [], []
    for type_, length, gap in parts:
        expected.append((type_, len(iob2), len(iob2) + length - 1))
        iob2 += [f"B-{type_}"] + [f"I-{type_}"] * (length - 1) + ["O"] * gap
        inner = [f"B-{type_}"] + [f"I-{type_}"] * (length - 2) + [f"E-{type_}"]
        iobes += ([f"S-{type_}"] if length == 1 else inner) + ["O"] * gap

    assert expected == list(entities(iob2))
    assert expected == list(entities(iobes))
