"""
BRAT standoff, as n2c2 and many others publish it: ``x.txt`` beside ``x.ann``, offsets in code
points (https://brat.nlplab.org/standoff.html).

Events are read as relations from their trigger to each argument.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from galenic_adapters.data.documents import (
    Document,
    Link,
    Mention,
    Reason,
    Report,
    files_of,
    text_of,
)

PLACES = r"[0-9]{1,9} [0-9]{1,9}(?:;[0-9]{1,9} [0-9]{1,9})*"
MENTION = re.compile(rf"(T\S*)\t(\S+) ({PLACES})(?:\t(.*))?")
RELATION = re.compile(r"(R\S*)\t(\S+) [^\s:]+:(\S+) [^\s:]+:(\S+)\s*")
EVENT = re.compile(r"(E\S*)\t[^\s:]+:(\S+)((?: [^\s:]+:\S+)*)\s*")
UNSAYABLE = ("#", "A", "M", "N", "*")


def read_brat(path: Path, report: Report) -> Iterator[Document]:
    """The documents of a folder, or of one file of a pair."""
    root = path.parent if path.is_file() else path
    if path.is_file():
        stems = {path.with_suffix("")}
    else:
        stems = {found.with_suffix("") for found in files_of(path, ".ann", ".txt")}
    for stem in sorted(stems):
        text, annotations = _beside(stem, ".txt"), _beside(stem, ".ann")
        name = stem.relative_to(root).as_posix()
        if text.is_file() and annotations.is_file():
            yield _document(name, text_of(text), text_of(annotations), report)
        else:
            report.note(Reason.UNPAIRED, name)


def _beside(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


def _document(name: str, text: str, annotations: str, report: Report) -> Document:
    mentions: list[Mention] = []
    links: list[Link] = []
    triggers: dict[str, str] = {}  # of events, which relations may name too
    for number, line in enumerate(annotations.split("\n"), start=1):
        line = line.removesuffix("\r")
        if found := MENTION.fullmatch(line):
            mentions.append(_mention(*found.groups()))
        elif found := RELATION.fullmatch(line):
            links.append(Link(found[2], found[3], found[4]))
        elif found := EVENT.fullmatch(line):
            triggers[found[1]] = found[2]
            links += _arguments(found[2], found[3])
        elif line.strip():
            reason = Reason.UNSAYABLE if line.startswith(UNSAYABLE) else Reason.MALFORMED
            report.note(reason, f"{name}.ann:{number}")
    meant = [
        Link(one.type, triggers.get(one.head, one.head), triggers.get(one.tail, one.tail))
        for one in links
    ]
    return Document(name, text, tuple(mentions), tuple(meant))


def _mention(id_: str, type_: str, places: str, said: str | None) -> Mention:
    pairs = [place.split(" ") for place in places.split(";")]
    return Mention(id_, type_, tuple((int(start), int(end)) for start, end in pairs), said)


def _arguments(trigger: str, arguments: str) -> Iterator[Link]:
    for argument in arguments.split():
        role, _, target = argument.partition(":")
        yield Link(role.rstrip("0123456789") or role, trigger, target)  # Theme2 is a second Theme
