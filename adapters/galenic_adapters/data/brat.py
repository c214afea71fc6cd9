"""
Reads BRAT standoff, as n2c2 and many others publish it (https://brat.nlplab.org/standoff.html).

``x.txt`` lies beside ``x.ann``, with offsets in code points. The BioNLP shared tasks have ``x.a1``,
``x.a2`` and ``x.rel`` instead, which together hold what an ``x.ann`` would. Events are read as
relations from their trigger to each argument.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from galenic_adapters.data.documents import (
    Document,
    Link,
    Mention,
    Reason,
    Report,
    files_of,
)
from galenic_adapters.files import bytes_of, decoded, lines_of, text_of

TEXT = ".txt"
ANNOTATIONS = (".ann", ".a1", ".a2", ".rel")
PLACES = r"[0-9]{1,9} [0-9]{1,9}(?:;[0-9]{1,9} [0-9]{1,9})*"
MENTION = re.compile(rf"(T\S*)\t(\S+) ({PLACES})(?:\t(.*))?")
RELATION = re.compile(r"(R\S*)\t(\S+) [^\s:]+:(\S+) [^\s:]+:(\S+)\s*")
EVENT = re.compile(r"(E\S*)\t[^\s:]+:(\S+)((?: [^\s:]+:\S+)*)\s*")
UNSAYABLE = ("#", "A", "M", "N", "*")


def read_brat(path: Path, report: Report) -> Iterator[Document]:
    """Read the documents of a folder, or of a pair that *path* is one file of."""
    root = path.parent if path.is_file() else path
    for stem, files in _by_stem(_files(path)).items():
        name = stem.relative_to(root).as_posix()
        annotations = [files[suffix] for suffix in ANNOTATIONS if suffix in files]
        if TEXT in files and annotations:
            yield _document(name, files[TEXT], annotations, report)
        else:
            report.note(Reason.UNPAIRED, name)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [file for file in path.parent.iterdir() if file.stem == path.stem]
    return files_of(path, TEXT, *ANNOTATIONS)


def _by_stem(files: Iterable[Path]) -> dict[Path, dict[str, Path]]:
    """Group files by document, then by suffix; documents are in order."""
    stems: dict[Path, dict[str, Path]] = {}
    for file in sorted(files):
        stems.setdefault(file.with_suffix(""), {})[file.suffix.lower()] = file
    return stems


def _document(name: str, text: Path, annotations: Sequence[Path], report: Report) -> Document:
    mentions: list[Mention] = []
    links: list[Link] = []
    triggers: dict[str, str] = {}  # by event; a relation may name an event instead of a mention
    for file in annotations:
        for number, line in lines_of(text_of(file)):
            if found := MENTION.fullmatch(line):
                mentions.append(_mention(*found.groups()))
            elif found := RELATION.fullmatch(line):
                links.append(Link(found[2], found[3], found[4]))
            elif found := EVENT.fullmatch(line):
                triggers[found[1]] = found[2]
                links += _arguments(found[2], found[3])
            elif line.strip():
                reason = Reason.UNSAYABLE if line.startswith(UNSAYABLE) else Reason.MALFORMED
                report.note(reason, f"{name}{file.suffix}:{number}")
    meant = [
        Link(link.type, triggers.get(link.head, link.head), triggers.get(link.tail, link.tail))
        for link in links
    ]
    whole = decoded(text.name, bytes_of(text))  # with its byte order mark: offsets may count it
    return Document(name, whole, tuple(mentions), tuple(meant))


def _mention(id_: str, type_: str, places: str, words: str | None) -> Mention:
    pairs = [place.split(" ") for place in places.split(";")]
    return Mention(id_, type_, tuple((int(start), int(end)) for start, end in pairs), words)


def _arguments(trigger: str, arguments: str) -> Iterator[Link]:
    for argument in arguments.split():
        role, _, target = argument.partition(":")
        yield Link(role.rstrip("0123456789") or role, trigger, target)  # Theme2 is a second Theme
