"""What a mention has to be, and what is done about one that is not."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galenic_adapters.data.documents import (
    Document,
    Link,
    Mending,
    Mention,
    Reason,
    Report,
)
from galenic_adapters.data.notes import settle, split

TEXT = "Left and right kidney\r\npain. Took aspirin."


def note_of(*mentions, text=TEXT, links=(), discontinuous="drop"):
    report = Report()
    document = Document("n", text, mentions, links)
    return settle(document, report, discontinuous=discontinuous), report


def said(note):
    return [note.text[span.start : span.end] for span in note.spans.values()]


@pytest.mark.parametrize(
    ("mention", "reason"),
    [
        (Mention("T1", "X", ((0, 99),)), Reason.OUT_OF_TEXT),
        (Mention("T1", "X", ((-1, 4),)), Reason.OUT_OF_TEXT),
        (Mention("T1", "X", ((4, 4),)), Reason.OUT_OF_TEXT),
        (Mention("T1", "X", ((4, 0),)), Reason.OUT_OF_TEXT),
        (Mention("T1", "X", ((21, 23),)), Reason.OUT_OF_TEXT),
        (Mention("T1", "X", ()), Reason.NO_PLACE),
        (Mention("T1", "X", ((0, 4),), "Right"), Reason.TEXT_DIFFERS),
        (Mention("T1", "X", ((0, 4), (15, 21)), "Left kidney"), Reason.DISCONTINUOUS),
        (Mention("T1", " ", ((0, 4),)), Reason.BAD_TYPE),
        (Mention("T1", "a\nb", ((0, 4),)), Reason.BAD_TYPE),
        (Mention("T1", "x" * 129, ((0, 4),)), Reason.BAD_TYPE),
    ],
)
def test_a_mention_that_is_none_is_dropped_and_named(mention, reason):
    note, report = note_of(mention, Mention("T2", "Drug", ((34, 41),), "aspirin"))

    assert ["aspirin"] == said(note)
    assert {reason: ["n/T1"]} == report.places


def test_an_id_that_was_used_is_dropped():
    note, report = note_of(Mention("T1", "X", ((0, 4),)), Mention("T1", "Y", ((34, 41),)))

    assert (["Left"], {Reason.SAME_ID: ["n/T1"]}) == (said(note), report.places)


def test_places_with_only_space_between_are_one():
    """
    BRAT breaks a mention where a line ends; that is not discontinuous.
    """
    note, report = note_of(Mention("T1", "Sign", ((9, 21), (23, 27)), "right kidney pain"))

    assert (TEXT, ["right kidney\r\npain"], {}) == (note.text, said(note), report.places)


def test_lines_that_a_mention_runs_across_stay_together():
    note, report = note_of(Mention("T1", "Sign", ((9, 27),)))

    (piece,) = split(note, "lines", report)

    assert (["right kidney\r\npain"], ["n#0"]) == (said(piece), report.places[Mending.REJOINED])


@pytest.mark.parametrize("told", ["Left kidney", "Left ... kidney", "Left…kidney", TEXT[:21]])
def test_what_a_discontinuous_mention_says_is_its_parts_or_all_between(told):
    mention = Mention("T1", "Organ", ((0, 4), (15, 21)), told)

    assert {Reason.DISCONTINUOUS: ["n/T1"]} == note_of(mention)[1].places
    assert ["Left and right kidney"] == said(note_of(mention, discontinuous="cover")[0])


def test_a_discontinuous_mention_may_be_covered():
    places = ((15, 21), (0, 4))
    note, report = note_of(Mention("T1", "Organ", places), discontinuous="cover")

    assert ["Left and right kidney"] == said(note)
    assert {Mending.COVERED: ["n/T1"]} == report.places


def test_space_at_the_ends_is_no_part_of_a_mention():
    note, report = note_of(Mention("T1", "Drug", ((33, 41),), " aspirin"))

    assert (["aspirin"], {Mending.TRIMMED: ["n/T1"]}) == (said(note), report.places)


@pytest.mark.parametrize("text", ["", " \n", "a\0b", "a\ud800b"])
def test_a_document_without_text_is_dropped(text):
    assert (None, {Reason.NOT_TEXT: ["n"]}) == (
        (made := note_of(text=text))[0],
        made[1].places,
    )


A, B = Mention("A", "X", ((0, 4),)), Mention("B", "X", ((34, 41),))


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        (Link("r", "A", "C"), Reason.NO_END),
        (Link("r", "C", "A"), Reason.NO_END),
        (Link("r", "A", "A"), Reason.NO_END),
        (Link("", "A", "B"), Reason.BAD_TYPE),
        (Link("r", "B", "A"), Reason.TWIN),
        (Link("s", "B", "A"), Reason.TWO_TYPES),
    ],
)
def test_a_relation_needs_two_mentions_and_one_type(link, reason):
    note, report = note_of(A, B, links=(Link("r", "B", "A"), link))

    assert (Link("r", "B", "A"),) == note.links
    assert {reason: [f"n/{link.head}-{link.tail}"]} == report.places


class TestSplitting:
    def test_lines_keep_their_mentions_and_a_relation_across_is_told(self):
        note, report = note_of(A, B, links=(Link("r", "A", "B"),))

        first, second = split(note, "lines", report)

        assert [("n#0", "Left and right kidney"), ("n#1", "pain. Took aspirin.")] == [
            (first.id, first.text),
            (second.id, second.text),
        ]
        assert (["Left"], ["aspirin"]) == (said(first), said(second))
        assert {Reason.ACROSS: ["n/A-B"]} == report.places

    def test_sentences_end_where_they_end_and_not_after_an_abbreviation(self):
        text = "Dr. Hill saw her, e.g. on Monday. She took 2.5 mg b.i.d. and slept. No fever."
        note, report = note_of(text=text)

        assert [
            "Dr. Hill saw her, e.g. on Monday.",
            "She took 2.5 mg b.i.d. and slept.",
            "No fever.",
        ] == [piece.text for piece in split(note, "sentences", report)]

    def test_a_mention_across_an_end_keeps_both_sentences_together(self):
        note, report = note_of(Mention("T1", "X", ((23, 41),)))

        (first,) = split(note, "sentences", report)

        assert (["pain. Took aspirin"], ["n#0"]) == (said(first), report.places[Mending.REJOINED])


TEXTS = st.text(string.ascii_letters[:6] + " .\n\r\t🩺é", min_size=1, max_size=60).filter(str.strip)


@st.composite
def documents(draw):
    """Any text, with mentions at any places, some of them wrong."""
    text = draw(TEXTS)
    point = st.integers(-2, len(text) + 2)
    places = st.lists(st.tuples(point, point), min_size=1, max_size=2).map(tuple)
    mentions = draw(st.lists(places, max_size=5))
    ids = [f"T{i}" for i in range(len(mentions))]
    ends = st.sampled_from(ids) if ids else st.nothing()
    links = draw(st.lists(st.builds(Link, st.just("r"), ends, ends), max_size=4)) if ids else ()
    made = tuple(Mention(id_, "X", at) for id_, at in zip(ids, mentions, strict=True))
    return Document("n", text, made, tuple(links))


@settings(deadline=None)  # machines differ
@given(
    documents(),
    st.sampled_from(["whole", "lines", "sentences"]),
    st.sampled_from(["drop", "cover"]),
)
def test_whatever_comes_in_offsets_say_the_mention_and_nothing_is_lost_silently(
    document, pieces, discontinuous
):
    """
    Each mention and link of the file is either in a piece or in the report.
    """
    report = Report()
    note = settle(document, report, discontinuous=discontinuous)
    made = list(split(note, pieces, report))

    spans = [(piece, span) for piece in made for span in piece.spans.values()]
    assert all(piece.text[s.start : s.end] == s.text != "" for piece, s in spans)
    assert all(s.text == s.text.strip() for _, s in spans)
    kept = len(spans) + sum(len(piece.links) for piece in made)
    assert len(document.mentions) + len(document.links) == kept + report.num_dropped
    assert note.text == document.text
