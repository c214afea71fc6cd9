"""
Converts documents of any format to examples in our schema, and reports what was left out.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from galenic_adapters.data.bioc import read_bioc
from galenic_adapters.data.brat import read_brat
from galenic_adapters.data.conll import read_conll
from galenic_adapters.data.documents import Document, Link, Reason, Report
from galenic_adapters.data.notes import Discontinuous, Note, Pieces, settle, split
from galenic_adapters.data.offsets import aligned
from galenic_adapters.data.pubannotation import read_pubannotation
from galenic_adapters.tasks.base import Example, Relation, Span
from galenic_adapters.tasks.lists import NOTHING
from galenic_adapters.tasks.ner import NerFields
from galenic_adapters.tasks.re import ReFields

Overlaps = Literal["keep", "longest"]

READERS: dict[str, Callable[[Path, Report], Iterator[Document]]] = {
    "brat": read_brat,
    "bioc": read_bioc,
    "conll": read_conll,
    "pubannotation": read_pubannotation,
}


@dataclass(frozen=True, slots=True)
class Rules:
    """
    Sets what examples are made of documents.

    labels: the types to keep (of entities for NER, of relations for RE); all if empty.
    discontinuous: drop a mention in several places, or cover all from its first to its last word.
    overlaps: keep all NER entities, or only the longest of those that overlap.
    split: keep documents whole, or split them into lines or sentences.
    none_pairs: the most RE examples without a relation per text, nearest pairs first; only of pairs
    of types that are related somewhere in the data.
    """

    labels: tuple[str, ...] = ()
    discontinuous: Discontinuous = "drop"
    overlaps: Overlaps = "keep"
    split: Pieces = "whole"
    none_pairs: int = 0


def convert(
    documents: Iterable[Document], task: Literal["ner", "re"], rules: Rules, report: Report
) -> list[Example]:
    """Convert *documents* to examples in our schema; what is left out goes into *report*."""
    notes = [
        piece
        for note in _settled(documents, rules, report)
        for piece in split(note, rules.split, report)
    ]
    if task == "ner":
        return [_ner(note, rules, report) for note in notes]
    asked = [(note, _asked_links(note, rules, report)) for note in notes]
    related = {
        (note.spans[link.head].type, note.spans[link.tail].type)
        for note, links in asked
        for link in links
    }
    return [
        example
        for note, links in asked
        for example in [
            *(_pair(note, link.head, link.tail, link.type) for link in links),
            *(_pair(note, *pair, NOTHING) for pair in _unrelated(note, related, rules.none_pairs)),
        ]
    ]


def _settled(documents: Iterable[Document], rules: Rules, report: Report) -> Iterator[Note]:
    seen: set[str] = set()
    for document in documents:
        report.num_documents += 1
        if document.id in seen:
            report.note(Reason.SAME_ID, document.id)
            continue
        seen.add(document.id)
        note = settle(aligned(document, report), report, discontinuous=rules.discontinuous)
        if note is not None:
            yield note


def _ner(note: Note, rules: Rules, report: Report) -> Example:
    kept: dict[Span, None] = {}
    for id_, span in sorted(note.spans.items(), key=lambda item: _longest_first(item[1])):
        reason = _refused(span, kept, rules)
        if reason is None:
            kept[span] = None
        else:
            report.note(reason, f"{note.id}/{id_}")
    in_order = sorted(kept, key=lambda span: (span.start, span.end, span.type or ""))
    return Example(note.id, NerFields(note.text), tuple(in_order))


def _longest_first(span: Span) -> tuple[int, int]:
    return (span.start - span.end, span.start)


def _refused(span: Span, kept: Iterable[Span], rules: Rules) -> Reason | None:
    if rules.labels and span.type not in rules.labels:
        return Reason.OTHER_TYPE
    if span in kept:
        return Reason.TWIN
    if rules.overlaps == "longest" and any(_overlap(span, other) for other in kept):
        return Reason.OVERLAPS
    return None


def _overlap(one: Span, other: Span) -> bool:
    return one.start < other.end and other.start < one.end


def _asked_links(note: Note, rules: Rules, report: Report) -> list[Link]:
    asked = []
    for link in note.links:
        if rules.labels and link.type not in rules.labels:
            report.note(Reason.OTHER_TYPE, f"{note.id}/{link.head}-{link.tail}")
        else:
            asked.append(link)
    return asked


def _unrelated(
    note: Note, related: set[tuple[str | None, str | None]], most: int
) -> list[tuple[str, str]]:
    """Return the nearest pairs of mentions whose types can be related, but which are not."""
    linked = {frozenset((link.head, link.tail)) for link in note.links}
    pairs = []
    for a, b in combinations(note.spans, 2) if most else ():
        if frozenset((a, b)) not in linked and not _overlap(note.spans[a], note.spans[b]):
            ways = [(a, b), (b, a)]
            fitting = [w for w in ways if tuple(note.spans[i].type for i in w) in related]
            pairs += fitting[:1]
    return sorted(pairs, key=lambda pair: _distance(note, *pair))[:most]


def _distance(note: Note, a: str, b: str) -> int:
    return abs(note.spans[a].start - note.spans[b].start)


def _pair(note: Note, head: str, tail: str, type_: str) -> Example:
    fields = ReFields(note.text, note.spans[head], note.spans[tail])
    value = () if type_ == NOTHING else (Relation(type_, note.spans[head], note.spans[tail]),)
    return Example(f"{note.id}/{head}-{tail}", fields, value)
