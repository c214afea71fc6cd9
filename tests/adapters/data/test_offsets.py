"""Files whose offsets count something else than code points, told by their mentions' own words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galenic_adapters.data.documents import Document, Mending, Mention, Report
from galenic_adapters.data.offsets import aligned, says

TEXT = "🩺 He has asthma.\r\nÉtat: gout.\r\nAnd COPD."
UNIX = TEXT.replace("\r\n", "\n")
SAID = ("asthma", "gout", "COPD")


def document(text, counted_in, size=len):
    """Mentions in *text* whose offsets are the sizes of what stands before them in *counted_in*."""
    starts = [(word, size(counted_in[: counted_in.index(word)])) for word in SAID]
    mentions = [Mention(word, "Sign", ((at, at + len(word)),), word) for word, at in starts]
    return Document("n", text, tuple(mentions))


def said(made):
    return tuple(made.text[slice(*mention.places[0])] for mention in made.mentions)


@pytest.mark.parametrize(
    ("given", "way"),
    [
        (document(TEXT, UNIX), Mending.LINE_ENDS_ONE),
        (document(UNIX, TEXT), Mending.LINE_ENDS_TWO),
        (document(TEXT, TEXT, lambda text: len(text.encode("utf-16-le")) // 2), Mending.UTF16),
        (document(TEXT, TEXT, lambda text: len(text.encode())), Mending.BYTES),
    ],
)
def test_offsets_are_put_right_and_that_is_told(given, way):
    report = Report()

    made = aligned(given, report)

    assert (given.text, SAID) == (made.text, said(made))
    assert {way: ["n"]} == report.places


@pytest.mark.parametrize("counted_in", ["\ufeff" + TEXT, TEXT])
def test_a_mark_is_no_text_whether_offsets_count_it_or_not(counted_in):
    report = Report()

    made = aligned(document("\ufeff" + TEXT, counted_in), report)

    assert (TEXT, SAID, {}) == (made.text, said(made), report.places)


def test_what_is_right_stays():
    report = Report()

    assert (document(TEXT, TEXT), {}) == (aligned(document(TEXT, TEXT), report), report.places)


def test_one_mention_that_is_wrong_however_one_counts_changes_nothing():
    right = document(TEXT, TEXT)
    wrong = Document("n", TEXT, (*right.mentions, Mention("x", "Sign", ((0, 4),), "gout")))

    assert wrong == aligned(wrong, report := Report())
    assert {} == report.places


@given(st.text(alphabet="ab \r\n🩺é", min_size=1), st.integers(0, 9), st.integers(1, 9))
def test_words_at_their_place_are_what_stands_there(text, start, length):
    if place := text[start : start + length]:
        assert says(place, text, [(start, start + len(place))])
