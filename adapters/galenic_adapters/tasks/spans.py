"""
Where a mention stands in a text, every time it occurs, in code points: in the same words, however
the text's lines break between them.
"""

import re
from collections.abc import Iterable, Mapping

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import Span

Place = tuple[int, int]
Pair = tuple[str, str]
"""A type and a mention."""
SHORT_CHARS = 4


def occurrences(mention: str, text: str) -> list[Place]:
    """
    Every non-overlapping place of *mention*, those that cut no word in two where there are any.

    White space of any kind and length counts as the same, so that a mention is found across a line
    end. Where it stands nowhere, capitals and small letters count as the same too.
    """
    return _verbatim(mention, text) or _in_any_case(mention, text)


def _verbatim(mention: str, text: str) -> list[Place]:
    found = _matches(mention, text)
    whole = [place for place in found if not _cuts_word(text, *place)]
    return whole or found


def _in_any_case(mention: str, text: str) -> list[Place]:
    """Whole words only; and a short abbreviation (ALL, US) is another word in small letters."""
    is_short = mention.isupper() and len(mention) <= SHORT_CHARS
    return [
        (start, end)
        for start, end in _matches(mention, text, re.IGNORECASE)
        if not _cuts_word(text, start, end) and not (is_short and text[start:end].islower())
    ]


def _matches(mention: str, text: str, flags: re.RegexFlag = re.NOFLAG) -> list[Place]:
    words = mention.split()
    pattern = r"\s+".join(map(re.escape, words))
    return [one.span() for one in re.finditer(pattern, text, flags)] if words else []


def _cuts_word(text: str, start: int, end: int) -> bool:
    def joined(left: int) -> bool:
        return 0 < left < len(text) and text[left - 1].isalnum() and text[left].isalnum()

    return joined(start) or joined(end)


def locate(mentions: Iterable[Pair], text: str) -> tuple[tuple[Span, ...], list[str]]:
    """
    The spans of (type, mention) pairs in text order, and the mentions that are not in the text.

    A mention that also stands inside a longer one of the same type ("cancer" in "breast cancer")
    is found there only if it stands nowhere else. One in other capitals than the text's is found
    only where nothing of its type stands.
    """
    places = {pair: _verbatim(pair[1], text) for pair in mentions}
    others = {pair: _in_any_case(pair[1], text) for pair, spots in places.items() if not spots}
    found: set[Span] = set()
    for (type_, _), spots in _longest_first(places):
        free = [spot for spot in spots if not _inside(spot, type_, found)]
        found.update(_span(type_, spot, text) for spot in free or spots)
    for (type_, _), spots in _longest_first(others):
        new = [_span(type_, spot, text) for spot in spots]
        found.update([one for one in new if not any(_overlap(one, other) for other in found)])
    missing = [
        mention
        for (type_, mention), spots in others.items()
        if not found.intersection(_span(type_, spot, text) for spot in spots)
    ]
    return tuple(sorted(found, key=lambda span: (span.start, span.end, span.type or ""))), missing


def _longest_first(places: Mapping[Pair, list[Place]]) -> list[tuple[Pair, list[Place]]]:
    return sorted(places.items(), key=lambda item: -len(item[0][1]))


def _span(type_: str, place: Place, text: str) -> Span:
    return Span(*place, text[slice(*place)], type_)


def _inside(spot: Place, type_: str, spans: set[Span]) -> bool:
    return any(s.type == type_ and s.start <= spot[0] and spot[1] <= s.end for s in spans)


def _overlap(one: Span, other: Span) -> bool:
    return one.type == other.type and one.start < other.end and other.start < one.end


def check_span(field: str, span: Span, text: str) -> None:
    """`BadInput` unless *span* lies in *text* and says what stands there."""
    if not 0 <= span.start < span.end <= len(text):
        raise BadInput(
            field, f"{span.start}:{span.end} is not in a text of {len(text)} code points"
        )
    if text[span.start : span.end] != span.text:
        raise BadInput(field, f"the text differs from what stands at {span.start}:{span.end}")
