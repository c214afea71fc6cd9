"""
An annotated document as every format tells it, and an account of what could not be taken over.

Readers yield documents and check nothing; `notes` has the one set of checks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from galenic_adapters.errors import BadInput

MOST_PLACES_TOLD = 3

Place = tuple[int, int]
"""Code points of the text, end-exclusive."""


@dataclass(frozen=True, slots=True)
class Mention:
    """
    Something of a type, at one place, or at several where it is discontinuous.

    said: the mention as the file writes it, where it does; checked against the text.
    """

    id: str
    type: str
    places: tuple[Place, ...]
    said: str | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """The mention with the id *head* stands in this relation to that with the id *tail*."""

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
    """Why something that the files hold is not in the examples."""

    MALFORMED = "cannot be read as the format has it"
    UNPAIRED = "text without annotations, or annotations without text"
    NOT_TEXT = "document that is empty or holds what is no text"
    SAME_ID = "id that was used before"
    UNSAYABLE = "attribute, note or link of a kind that our schema has no place for"
    NO_PLACE = "names no place in the text"
    OUT_OF_TEXT = "place outside of the text"
    TEXT_DIFFERS = "says other words than stand at its place"
    DISCONTINUOUS = "in several places"
    BAD_TYPE = "type that is empty, too long or no single line"
    OTHER_TYPE = "type that was not asked for"
    TWIN = "the same place and type again"
    OVERLAPS = "overlaps a longer mention"
    NO_END = "relation whose head or tail is not there, or was dropped"
    ACROSS = "relation across two pieces of the split document"
    TWO_TYPES = "second relation between the same two"


class Mending(StrEnum):
    """What was changed, without moving any offset."""

    TRIMMED = "space at a mention's ends was left out of it"
    UNWRAPPED = "line break inside a mention became a space"
    COVERED = "discontinuous mention taken from its first to its last word"
    REJOINED = "sentences that a mention runs across were kept together"


@dataclass(slots=True)
class Report:
    """What was left out or changed, why, and where: names of files and ids, never a text."""

    told: dict[Reason | Mending, list[str]] = field(default_factory=dict)
    num_documents: int = 0

    def note(self, what: Reason | Mending, where: str) -> None:
        self.told.setdefault(what, []).append(where)

    def num(self, what: Reason | Mending) -> int:
        return len(self.told.get(what, ()))

    @property
    def num_dropped(self) -> int:
        return sum(self.num(reason) for reason in Reason)

    def lines(self) -> Iterator[str]:
        for what, places in self.told.items():
            verb = "dropped" if isinstance(what, Reason) else "mended"
            first = ", ".join(place[:80] for place in places[:MOST_PLACES_TOLD])
            more = ", …" if len(places) > MOST_PLACES_TOLD else ""
            yield f"{verb} {len(places)}: {what} ({first}{more})"


def files_of(path: Path, *suffixes: str) -> list[Path]:
    """*path* itself, or the files below it that end so, in order; raises `BadInput` for none."""
    if path.is_file():
        return [path]
    found = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(suffixes))
    if not found:
        raise BadInput(path.name, f"holds no file that ends in {' or '.join(suffixes)}")
    return found


def bytes_of(path: Path) -> bytes:
    """The file's bytes; raises `BadInput`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(path.name, f"cannot be read: {error.strerror or error}") from error


def text_of(path: Path) -> str:
    """The file's text, its line ends as they are, so that offsets hold; raises `BadInput`."""
    try:
        return bytes_of(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(path.name, f"is not UTF-8 at byte {error.start}") from error
