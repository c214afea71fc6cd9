"""
Where a mention stands in a text: verbatim, every time it occurs, in code points.
"""

from collections.abc import Iterable

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import Span


def occurrences(mention: str, text: str) -> list[tuple[int, int]]:
    """
    Every non-overlapping place of *mention*, those that cut no word in two where there are any.
    """
    found = []
    at = text.find(mention) if mention else -1
    while at >= 0:
        found.append((at, at + len(mention)))
        at = text.find(mention, at + len(mention))
    whole = [place for place in found if not _cuts_word(text, *place)]
    return whole or found


def _cuts_word(text: str, start: int, end: int) -> bool:
    def joined(left: int) -> bool:
        return 0 < left < len(text) and text[left - 1].isalnum() and text[left].isalnum()

    return joined(start) or joined(end)


def locate(mentions: Iterable[tuple[str, str]], text: str) -> tuple[tuple[Span, ...], list[str]]:
    """
    The spans of (type, mention) pairs in text order, and the mentions that are not in the text.

    A mention that also stands inside a longer one of the same type ("cancer" in "breast cancer")
    is found there only if it stands nowhere else.
    """
    places = {pair: occurrences(pair[1], text) for pair in mentions}
    found: set[Span] = set()
    for (type_, mention), spots in sorted(places.items(), key=lambda item: -len(item[0][1])):
        free = [spot for spot in spots if not _inside(spot, type_, found)]
        found.update(Span(start, end, mention, type_) for start, end in free or spots)
    missing = [mention for (_, mention), spots in places.items() if not spots]
    return tuple(sorted(found, key=lambda span: (span.start, span.end, span.type or ""))), missing


def _inside(spot: tuple[int, int], type_: str, spans: set[Span]) -> bool:
    return any(s.type == type_ and s.start <= spot[0] and spot[1] <= s.end for s in spans)


def check_span(field: str, span: Span, text: str) -> None:
    """`BadInput` unless *span* lies in *text* and says what stands there."""
    if not 0 <= span.start < span.end <= len(text):
        raise BadInput(
            field, f"{span.start}:{span.end} is not in a text of {len(text)} code points"
        )
    if text[span.start : span.end] != span.text:
        raise BadInput(field, f"the text differs from what stands at {span.start}:{span.end}")
