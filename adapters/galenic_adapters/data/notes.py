"""
Checks documents, and splits them.

In a checked note every mention is one span inside the text, with the words that stand there.
Splitting never cuts a mention, and offsets stay exact in every piece.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import Any, Literal, get_args

from galenic_adapters.data.documents import (
    Document,
    Link,
    Mending,
    Mention,
    Reason,
    Report,
)
from galenic_adapters.data.offsets import says
from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import Span, check_labels, check_text
from galenic_adapters.tasks.spans import Offsets

Pieces = Literal["whole", "lines", "sentences"]
Discontinuous = Literal["drop", "cover"]

MOST_LABEL_CHARS = 128
ABBREVIATIONS = (
    *("al", "approx", "b.i.d", "ca", "cf", "dr", "e.g", "fig", "figs", "i.e", "mr", "mrs", "ms"),
    *("no", "p.o", "pt", "q.d", "resp", "st", "t.i.d", "vs"),
)


@dataclass(frozen=True, slots=True)
class Note:
    """Holds a text with its mentions by id, each of them one span."""

    id: str
    text: str
    spans: dict[str, Span] = field(default_factory=dict)
    links: tuple[Link, ...] = ()


def settle(document: Document, report: Report, *, discontinuous: Discontinuous) -> Note | None:
    """
    Check *document* and drop what is faulty, with an entry in *report*.

    Returns None if the document has no text.
    """
    try:
        check_text("text", document.text)
    except BadInput:
        report.note(Reason.NOT_TEXT, document.id)
        return None
    text = document.text
    spans: dict[str, Span] = {}
    for mention in document.mentions:
        where = f"{document.id}/{mention.id}"
        if mention.id in spans:
            report.note(Reason.SAME_ID, where)
            continue
        settled = _settle_one(mention, text, report, where, discontinuous)
        if isinstance(settled, Reason):
            report.note(settled, where)
        else:
            start, end = settled
            spans[mention.id] = Span(start, end, text[start:end], mention.type)
    return Note(document.id, text, spans, tuple(_held(document, spans, report)))


def _settle_one(
    mention: Mention, text: str, report: Report, where: str, discontinuous: Discontinuous
) -> Offsets | Reason:
    if not _is_type(mention.type):
        return Reason.BAD_TYPE
    if not mention.places:
        return Reason.NO_PLACE
    if not all(0 <= start < end <= len(text) for start, end in mention.places):
        return Reason.OUT_OF_TEXT
    if mention.words is not None and not says(mention.words, text, mention.places):
        return Reason.TEXT_DIFFERS
    start, end = mention.places[0][0], max(end for _, end in mention.places)
    if not _is_whole(mention.places, text):
        if discontinuous == "drop":
            return Reason.DISCONTINUOUS
        start = min(start for start, _ in mention.places)
        report.note(Mending.COVERED, where)
    return _trimmed((start, end), text, report, where)


def _is_type(type_: str) -> bool:
    try:
        return bool(check_labels([type_])) and len(type_) <= MOST_LABEL_CHARS
    except BadInput:
        return False


def _is_whole(places: tuple[Offsets, ...], text: str) -> bool:
    """Tell whether only space separates the places (BRAT breaks a mention at line ends)."""
    gaps = ((end, start) for (_, end), (start, _) in pairwise(places))
    return all(end <= start and not text[end:start].strip() for end, start in gaps)


def _trimmed(place: Offsets, text: str, report: Report, where: str) -> Offsets | Reason:
    start, end = place
    words = text[start:end]
    if not words.strip():
        return Reason.OUT_OF_TEXT
    trimmed = (end - len(words.lstrip()), start + len(words.rstrip()))
    if trimmed != place:
        report.note(Mending.TRIMMED, where)
    return trimmed


def _held(document: Document, spans: dict[str, Span], report: Report) -> Iterator[Link]:
    seen: dict[tuple[str, str], str] = {}
    for link in document.links:
        where = f"{document.id}/{link.head}-{link.tail}"
        if not _is_type(link.type):
            report.note(Reason.BAD_TYPE, where)
        elif link.head not in spans or link.tail not in spans or link.head == link.tail:
            report.note(Reason.NO_END, where)
        elif (link.head, link.tail) in seen:
            twin = seen[link.head, link.tail] == link.type
            report.note(Reason.TWIN if twin else Reason.TWO_TYPES, where)
        else:
            seen[link.head, link.tail] = link.type
            yield link


def split(note: Note, pieces: Pieces, report: Report) -> Iterator[Note]:
    """Yield *note*, or its lines or sentences; those that a mention runs across stay together."""
    if pieces == "whole":
        yield note
        return
    cuts = _rejoined(_BOUNDS[pieces](note.text), note, report)
    home = {
        id_: next(i for i, (start, end) in enumerate(cuts) if start <= span.start < end)
        for id_, span in note.spans.items()
    }
    for link in note.links:
        if home[link.head] != home[link.tail]:
            report.note(Reason.ACROSS, f"{note.id}/{link.head}-{link.tail}")
    for i, cut in enumerate(cuts):
        yield _piece(note, f"{note.id}#{i}", cut, {id_ for id_, at in home.items() if at == i})


def _piece(note: Note, name: str, cut: Offsets, ids: set[str]) -> Note:
    start, end = cut
    spans = {
        id_: replace(span, start=span.start - start, end=span.end - start)
        for id_, span in note.spans.items()
        if id_ in ids
    }
    links = tuple(link for link in note.links if {link.head, link.tail} <= ids)
    return Note(name, note.text[start:end], spans, links)


def _rejoined(bounds: Iterable[Offsets], note: Note, report: Report) -> list[Offsets]:
    """Return *bounds* without the cuts that fall into a mention."""
    mentions = sorted((span.start, span.end) for span in note.spans.values())
    joined: list[Offsets] = []
    for start, end in bounds:
        if joined and any(a < start and b > joined[-1][1] for a, b in mentions):
            report.note(Mending.REJOINED, f"{note.id}#{len(joined) - 1}")
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _lines(text: str) -> Iterator[Offsets]:
    at = 0
    for line in text.split("\n"):
        if line.strip():
            yield (at, at + len(line.removesuffix("\r")))
        at += len(line) + 1


def _sentences(text: str) -> Iterator[Offsets]:
    yield from _punkt().span_tokenize(text)


@cache
def _punkt() -> Any:
    """Make an untrained Punkt tokenizer that knows abbreviations frequent in clinical text."""
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    learned = PunktParameters()
    learned.abbrev_types.update(ABBREVIATIONS)
    return PunktSentenceTokenizer(learned)


_BOUNDS: dict[str, Callable[[str], Iterator[Offsets]]] = {"lines": _lines, "sentences": _sentences}
assert {"whole", *_BOUNDS} == set(get_args(Pieces))
