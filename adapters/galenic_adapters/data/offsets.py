"""
Finds out what a file's offsets count, and converts them to code points.

Tools count a line end of two characters as one or one as two, or count UTF-16 units or bytes, and
count a byte order mark or not. The words that mentions repeat show which.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from galenic_adapters.data.documents import Document, Mending, Mention, Report
from galenic_adapters.files import MARK
from galenic_adapters.tasks.spans import Offsets

GAPS = ("", "...", "…")
"""Separators that formats write between the parts of a discontinuous mention."""


def aligned(document: Document, report: Report) -> Document:
    """
    Return *document* with offsets in code points and without a byte order mark.

    Takes the way of counting under which most mentions' words match the text; without such words,
    offsets count code points.
    """
    text = document.text.removeprefix(MARK)
    marks = len(document.text) - len(text)
    if not marks and _num_right(document.mentions, text) == _num_with_words(document.mentions):
        return document
    ways = _recounted(document.mentions, text, marks)
    way, best = max(ways, key=lambda pair: _num_right(pair[1], text))
    if way:
        report.note(way, document.id)
    return replace(document, text=text, mentions=best)


def says(words: str, text: str, places: Sequence[Offsets]) -> bool:
    """Tell whether *words* are the words at *places*, or from first to last; spaces don't count."""
    parts = [_words(text[start:end]) for start, end in places]
    whole = text[min(start for start, _ in places) : max(end for _, end in places)]
    return _words(words) in {*(gap.join(parts) for gap in GAPS), _words(whole)}


def _words(text: str) -> str:
    """Remove space: formats differ in how they write line breaks and gaps inside a mention."""
    return "".join(text.split())


def _num_with_words(mentions: Sequence[Mention]) -> int:
    return sum(mention.words is not None for mention in mentions)


def _num_right(mentions: Sequence[Mention], text: str) -> int:
    return sum(_is_right(mention, text) for mention in mentions)


def _is_right(mention: Mention, text: str) -> bool:
    there = mention.places and all(0 <= a < b <= len(text) for a, b in mention.places)
    return bool(there and mention.words is not None and says(mention.words, text, mention.places))


def _recounted(
    mentions: Sequence[Mention], text: str, marks: int
) -> Iterator[tuple[Mending | None, tuple[Mention, ...]]]:
    """Yield each way of counting, the plainest first, with the mentions converted by it."""
    for way, sizes in WAYS.items():
        for lead in sorted({marks, 0}, reverse=True):
            starts = list(accumulate(sizes(text), initial=lead))
            yield way, tuple(replace(m, places=_moved(m.places, starts)) for m in mentions)


def _moved(places: Sequence[Offsets], starts: Sequence[int]) -> tuple[Offsets, ...]:
    return tuple((_index(start, starts), _index(end, starts)) for start, end in places)


def _index(offset: int, starts: Sequence[int]) -> int:
    """Return the index of the code point that begins at *offset*, or -1 if none does."""
    at = bisect_left(starts, offset)
    return at if at < len(starts) and starts[at] == offset else -1


def _code_points(text: str) -> list[int]:
    return [1] * len(text)


def _line_ends_as_one(text: str) -> list[int]:
    return [int(text[i : i + 2] != "\r\n") for i in range(len(text))]


def _line_ends_as_two(text: str) -> list[int]:
    return [1 + int(c == "\n" and text[i - 1 : i] != "\r") for i, c in enumerate(text)]


def _utf16_units(text: str) -> list[int]:
    return [1 + int(c > "\uffff") for c in text]


def _bytes(text: str) -> list[int]:
    return [len(c.encode("utf-8", "surrogatepass")) for c in text]


WAYS: dict[Mending | None, Callable[[str], list[int]]] = {
    None: _code_points,
    Mending.LINE_ENDS_ONE: _line_ends_as_one,
    Mending.LINE_ENDS_TWO: _line_ends_as_two,
    Mending.UTF16: _utf16_units,
    Mending.BYTES: _bytes,
}
