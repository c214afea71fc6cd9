"""
Locates mentions in a text, in code points; line breaks between words do not matter.
"""

import re
from collections.abc import Iterable, Mapping

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import Span

Offsets = tuple[int, int]
"""Start and end (exclusive) in the text, in code points."""
Pair = tuple[str, str]
"""A type, and a mention or another item of a list."""
SHORT_CHARS = 4


def occurrences(mention: str, text: str) -> list[Offsets]:
    """
    Return every non-overlapping place of *mention*; whole words only, if there are any.

    White space of any kind and length is equal, so that a mention is found across a line end. If it
    is not found, case is ignored.
    """
    return _verbatim(mention, text) or _in_any_case(mention, text)


def _verbatim(mention: str, text: str) -> list[Offsets]:
    found = _matches(mention, text)
    whole = [place for place in found if not _cuts_word(text, *place)]
    return whole or found


def _in_any_case(mention: str, text: str) -> list[Offsets]:
    """
    Return the places of *mention* as whole words in any case.

    A short abbreviation (ALL, US) is not found in lower case, where it is another word.
    """
    is_short = mention.isupper() and len(mention) <= SHORT_CHARS
    return [
        (start, end)
        for start, end in _matches(mention, text, re.IGNORECASE)
        if not _cuts_word(text, start, end) and not (is_short and text[start:end].islower())
    ]


def _matches(mention: str, text: str, flags: re.RegexFlag = re.NOFLAG) -> list[Offsets]:
    words = mention.split()
    pattern = r"\s+".join(map(re.escape, words))
    return [found.span() for found in re.finditer(pattern, text, flags)] if words else []


def _cuts_word(text: str, start: int, end: int) -> bool:
    def joined(left: int) -> bool:
        return 0 < left < len(text) and text[left - 1].isalnum() and text[left].isalnum()

    return joined(start) or joined(end)


def locate(mentions: Mapping[Pair, float | None], text: str) -> tuple[tuple[Span, ...], list[str]]:
    """
    Locate (type, mention) pairs, each with its confidence; returns spans in text order, and
    mentions that were not found.

    A mention inside a longer one of the same type ("cancer" in "breast cancer") counts there only
    if it occurs nowhere else. One in another case than the text's counts only where no span of its
    type was found.
    """
    places = {pair: _verbatim(pair[1], text) for pair in mentions}
    others = {pair: _in_any_case(pair[1], text) for pair, spots in places.items() if not spots}
    found: set[Span] = set()
    for pair, spots in _longest_first(places):
        free = [spot for spot in spots if not _inside(spot, pair[0], found)]
        found.update(_spans(pair, free or spots, text, mentions))
    for pair, spots in _longest_first(others):
        new = _spans(pair, spots, text, mentions)
        found.update([span for span in new if not any(_overlap(span, other) for other in found)])
    missing = [
        pair[1]
        for pair, spots in others.items()
        if not found.intersection(_spans(pair, spots, text, mentions))
    ]
    return tuple(sorted(found, key=lambda span: (span.start, span.end, span.type or ""))), missing


def _longest_first(places: Mapping[Pair, list[Offsets]]) -> list[tuple[Pair, list[Offsets]]]:
    return sorted(places.items(), key=lambda item: -len(item[0][1]))


def _spans(
    pair: Pair, places: Iterable[Offsets], text: str, confidences: Mapping[Pair, float | None]
) -> list[Span]:
    return [Span(*place, text[slice(*place)], pair[0], confidences[pair]) for place in places]


def _inside(spot: Offsets, type_: str, spans: set[Span]) -> bool:
    return any(s.type == type_ and s.start <= spot[0] and spot[1] <= s.end for s in spans)


def _overlap(one: Span, other: Span) -> bool:
    return one.type == other.type and one.start < other.end and other.start < one.end


def check_span(field: str, span: Span, text: str) -> None:
    """Raise `BadInput` unless *span* lies in *text* and holds the words at its place."""
    if not 0 <= span.start < span.end <= len(text):
        raise BadInput(
            field, f"{span.start}:{span.end} is not in a text of {len(text)} code points"
        )
    if text[span.start : span.end] != span.text:
        raise BadInput(field, f"the text differs from what stands at {span.start}:{span.end}")
