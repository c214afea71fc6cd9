"""
Reads CoNLL columns: one token per line, its tag in a column, an empty line between sentences.

Tags are IOB1, IOB2, IOBES or BILOU, read as conlleval reads them: an entity also begins where the
type changes or where none is open. The text is its tokens joined by spaces.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from galenic_adapters.data.documents import (
    Document,
    Mention,
    Reason,
    Report,
    files_of,
)
from galenic_adapters.errors import BadInput
from galenic_adapters.files import lines_of, text_of
from galenic_adapters.tasks.spans import Offsets

SUFFIXES = (".conll", ".bio", ".iob", ".iob2", ".tsv", ".txt")
TAG = re.compile(r"(?:(?P<how>[BIESLUMW])(?:[-_](?P<type>.+))?)|(?P<outside>O)")
COMMENT = re.compile(r"# ?[\w. ]+ = .*|# ?id\b.*")
BEGINS, ENDS = frozenset("BSUW"), frozenset("ESLUW")
UNNAMED = "Entity"
"""The type of entities whose tags are just B, I and O."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Numbers the columns of token and tag, from 0, or from the end if negative."""

    token: int = 0
    tag: int = -1


def read_conll(
    path: Path,
    report: Report,
    columns: Columns = Columns(),
) -> Iterator[Document]:
    """Read the sentences of a file, or of all files of a folder; each becomes a document."""
    for file in files_of(path, *SUFFIXES):
        lines = lines_of(text_of(file))
        for is_sentence, group in groupby(lines, key=lambda numbered: _is_token(numbered[1])):
            if is_sentence:
                yield from _sentence(file, list(group), columns, report)


def _is_token(line: str) -> bool:
    return not (not line.strip() or line.startswith("-DOCSTART-") or COMMENT.fullmatch(line))


def _sentence(
    file: Path, lines: Sequence[tuple[int, str]], columns: Columns, report: Report
) -> Iterator[Document]:
    """Yield the document of *lines*; lines without token or tag are reported and left out."""
    tokens, tags = [], []
    for number, line in lines:
        cells = line.split("\t") if "\t" in line else [cell for cell in line.split(" ") if cell]
        try:
            token, tag = cells[columns.token].strip(), cells[columns.tag].strip()
        except IndexError:
            problem = f"line {number}: {len(cells)} columns, no token and tag there"
            raise BadInput(file.name, problem) from None
        if token and len(cells) > 1 and TAG.fullmatch(tag):
            tokens.append(token)
            tags.append(tag)
        else:
            report.note(Reason.MALFORMED, f"{file.name}:{number}")
    if tokens:
        yield tagged(f"{file.stem}:{lines[0][0]}", tokens, tags)


def tagged(name: str, tokens: Sequence[str], tags: Sequence[str]) -> Document:
    """Make the document of a tokenized sentence; every token has a well-formed tag."""
    places: list[Offsets] = []
    at = 0
    for token in tokens:
        places.append((at, at + len(token)))
        at += len(token) + 1
    mentions = [
        Mention(f"T{number}", type_, ((places[first][0], places[last][1]),))
        for number, (type_, first, last) in enumerate(entities(tags), start=1)
    ]
    return Document(name, " ".join(tokens), tuple(mentions))


def entities(tags: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Yield the type, first token and last token of every entity in *tags*."""
    type_, first = None, 0
    for i, tag in enumerate(tags):
        found = TAG.fullmatch(tag)
        assert found is not None, f"{tag} is no tag"
        now = None if found["outside"] else found["type"] or UNNAMED
        if type_ is not None and (now != type_ or found["how"] in BEGINS):
            yield type_, first, i - 1
            type_ = None
        if now is not None and type_ is None:
            type_, first = now, i
        if now is not None and found["how"] in ENDS:
            yield now, first, i
            type_ = None
    if type_ is not None:
        yield type_, first, len(tags) - 1
