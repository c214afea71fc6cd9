"""
An annotated document as read from any format, and the report of what could not be taken over.

Readers yield documents without checking them; all checks are in `notes`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from galenic_adapters.errors import BadInput
from galenic_adapters.files import lines_of, text_of
from galenic_adapters.tasks.spans import Offsets

MOST_PLACES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Mention:
    """
    Holds an entity: its type, and its place, or several if it is discontinuous.

    words: the mention's words as the file repeats them, if it does; checked against the text.
    """

    id: str
    type: str
    places: tuple[Offsets, ...]
    words: str | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """Relates the mention with the id *head* to the one with the id *tail*."""

    type: str
    head: str
    tail: str


@dataclass(frozen=True, slots=True)
class Document:
    id: str
    text: str
    mentions: tuple[Mention, ...] = ()
    links: tuple[Link, ...] = ()


class Reason(StrEnum):
    """Says why something in the files is not in the examples."""

    MALFORMED = "cannot be read as the format has it"
    UNPAIRED = "text without annotations, or annotations without text"
    NOT_TEXT = "document that is empty or holds what is no text"
    SAME_ID = "id that was used before"
    UNSAYABLE = "attribute, note, link or further label, for which our schema has no place"
    NO_PLACE = "names no place in the text"
    OUT_OF_TEXT = "place outside of the text"
    TEXT_DIFFERS = "says other words than stand at its place"
    DISCONTINUOUS = "in several places"
    BAD_TYPE = "type that is empty, too long or no single line"
    OTHER_TYPE = "type that was not asked for"
    TWIN = "the same place and type again"
    OVERLAPS = "overlaps a longer mention"
    NO_END = "relation whose head or tail is not there, or was dropped"
    AMBIGUOUS = "relation to an id that several mentions have"
    ACROSS = "relation across two pieces of the split document"
    TWO_TYPES = "second relation between the same two"


class Mending(StrEnum):
    """Says what was changed to make annotations usable; no text is altered."""

    TRIMMED = "space at a mention's ends was left out of it"
    COVERED = "discontinuous mention taken from its first to its last word"
    REJOINED = "lines or sentences that a mention runs across were kept together"
    LINE_ENDS_ONE = "offsets that count a line end of two characters as one were put right"
    LINE_ENDS_TWO = "offsets that count a line end of one character as two were put right"
    UTF16 = "offsets that count UTF-16 units were put right"
    BYTES = "offsets that count bytes of UTF-8 were put right"
    RENAMED = "annotations whose ids begin anew in a passage got ids of their own"


@dataclass(slots=True)
class Report:
    """Collects what was left out or changed, why and where: file names and ids, never text."""

    places: dict[Reason | Mending, list[str]] = field(default_factory=dict)
    num_documents: int = 0

    def note(self, what: Reason | Mending, where: str) -> None:
        self.places.setdefault(what, []).append(where)

    def num(self, what: Reason | Mending) -> int:
        return len(self.places.get(what, ()))

    @property
    def num_dropped(self) -> int:
        return sum(self.num(reason) for reason in Reason)

    def lines(self) -> Iterator[str]:
        for what, places in self.places.items():
            verb = "dropped" if isinstance(what, Reason) else "mended"
            first = ", ".join(place[:80] for place in places[:MOST_PLACES_SHOWN])
            more = ", …" if len(places) > MOST_PLACES_SHOWN else ""
            yield f"{verb} {len(places)}: {what} ({first}{more})"


def files_of(path: Path, *suffixes: str) -> list[Path]:
    """
    Return *path* if it is a file, or all files below it with one of *suffixes*, sorted.

    Hidden files are left out. Raises `BadInput` if there is none.
    """
    if path.is_file():
        return [path]
    found = sorted(p for p in path.rglob("*") if p.is_file() and not _is_hidden(p, path))
    if wanted := [p for p in found if p.name.lower().endswith(suffixes)]:
        return wanted
    there = ", ".join(sorted({p.suffix for p in found})[:5])
    problem = f"holds no file that ends in {' or '.join(suffixes)}"
    raise BadInput(path.name, problem + (f"; there are {there}" if there else ""))


def _is_hidden(path: Path, root: Path) -> bool:
    """Recognize files that systems leave behind: ``._x.txt``, ``__MACOSX`` and the like."""
    return any(part.startswith((".", "__MACOSX")) for part in path.relative_to(root).parts)


def json_of(path: Path) -> list[Any]:
    """Parse a file that holds one JSON value, or one per line; raises `BadInput`."""
    text = text_of(path)
    try:
        return [json.loads(text)]
    except (json.JSONDecodeError, RecursionError) as error:
        if getattr(error, "msg", "") != "Extra data":
            raise BadInput(path.name, f"is not JSON: {error}"[:200]) from error
    return [_parsed(line, number, path) for number, line in lines_of(text) if line.strip()]


def _parsed(line: str, number: int, path: Path) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadInput(path.name, f"line {number}: is not JSON: {error}"[:200]) from error


def label_of(value: Any) -> tuple[str, int]:
    """Return the label in a JSON value, the first if it is a list, and the number of others."""
    values = value if isinstance(value, list) else [value]
    labels = [str(label) for label in values if isinstance(label, str | int) and label != ""]
    return (labels[0] if labels else ""), len(values[1:])
