"""
BioC as XML or JSON (http://bioc.sourceforge.net). Offsets there are the document's; passages are
put together here with a line break between two, and offsets follow them.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from galenic_adapters.data.documents import (
    Document,
    Link,
    Mention,
    Place,
    Reason,
    Report,
    bytes_of,
    files_of,
    text_of,
)
from galenic_adapters.errors import BadInput

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Passage:
    """A stretch of the document: *offset* is the file's, *at* is where it stands in our text."""

    offset: int
    at: int
    text: str

    def holds(self, start: int) -> bool:
        return self.offset <= start < self.offset + len(self.text)


def read_bioc(path: Path, report: Report) -> Iterator[Document]:
    """The documents of a file, or of all ``.xml`` and ``.json`` files of a folder."""
    for file in files_of(path, ".xml", ".json"):
        parse = _xml if file.suffix.lower() == ".xml" else _json
        try:
            rows = parse(file)
            yield from (_document(row, report) for row in rows)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = f"is not BioC: {type(error).__name__}: {error}"
            raise BadInput(file.name, problem[:200]) from error


def _json(file: Path) -> list[Row]:
    try:
        read = json.loads(text_of(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadInput(file.name, f"is not JSON: {error}"[:200]) from error
    return list(_documents(read))


def _documents(read: Any) -> Iterator[Row]:
    """Those of a collection, of a list of either, or of services that wrap one in another key."""
    if isinstance(read, list):
        for one in read:
            yield from _documents(one)
    elif "passages" in read:
        yield read
    elif "documents" in read:
        yield from read["documents"]
    elif len(read) == 1:
        yield from _documents(next(iter(read.values())))
    else:
        raise KeyError("documents")


def _xml(file: Path) -> list[Row]:
    data = bytes_of(file)
    try:
        root = fromstring(data, forbid_dtd=False)  # BioC files name a DTD; it is never fetched
    except DefusedXmlException as error:
        raise BadInput(file.name, f"is refused: {type(error).__name__}") from error
    except ParseError as error:
        raise BadInput(file.name, f"is not XML: {error}") from error
    return [_row(document) for document in root.iter("document")]


def _row(element: Element) -> Row:
    """A document, passage, sentence, annotation or relation as BioC JSON has it."""
    row: Row = {child.tag: child.text or "" for child in element if len(child) == 0}
    row |= {
        "infons": {infon.get("key"): infon.text or "" for infon in element.findall("infon")},
        "locations": [dict(location.attrib) for location in element.findall("location")],
        "nodes": [dict(node.attrib) for node in element.findall("node")],
    }
    if "id" in element.attrib:
        row["id"] = element.attrib["id"]
    for tag in ("passage", "sentence", "annotation", "relation"):
        row[tag + "s"] = [_row(child) for child in element.findall(tag)]
    return row


def _document(row: Row, report: Report) -> Document:
    name = str(row["id"])
    text = ""
    passages: list[_Passage] = []
    mentions: list[Mention] = []
    links: list[Link] = []
    for part in _parts(row):
        passage = _Passage(int(part["offset"]), len(text), part.get("text") or "")
        passages.append(passage)
        text += passage.text + "\n" if passage.text else ""
        mentions += (_mention(one, [passage], name) for one in part.get("annotations", ()))
    mentions += (_mention(one, passages, name) for one in _own_annotations(row))
    for part in _all(row):
        links += _links(part.get("relations", ()), name, report)
    named = (replace(m, id=m.id or f"#{number}") for number, m in enumerate(mentions))
    return Document(name, text.removesuffix("\n"), tuple(named), tuple(links))


def _parts(row: Row) -> Iterator[Row]:
    """What has text of its own: passages, or the sentences of those that have no text."""
    for passage in row["passages"]:
        yield from [passage] if passage.get("text") else passage.get("sentences", ())


def _own_annotations(row: Row) -> Iterator[Row]:
    """Annotations beside the text that they speak of, not inside it."""
    yield from row.get("annotations", ())
    for passage in row["passages"]:
        if passage.get("text"):
            for sentence in passage.get("sentences", ()):
                yield from sentence.get("annotations", ())
        else:
            yield from passage.get("annotations", ())


def _all(row: Row) -> Iterator[Row]:
    yield row
    for passage in row["passages"]:
        yield passage
        yield from passage.get("sentences", ())


def _mention(row: Row, passages: list[_Passage], name: str) -> Mention:
    infons = row.get("infons") or {}
    places = tuple(_place(location, passages) for location in row.get("locations", ()))
    said = row.get("text") or None
    return Mention(str(row.get("id", "")), str(infons.get("type", "")), places, said)


def _place(location: Row, passages: list[_Passage]) -> Place:
    start, length = int(location["offset"]), int(location["length"])
    home = next((p for p in passages if p.holds(start)), None)
    if home is None or start + length > home.offset + len(home.text):
        return (-1, -1)  # in no passage, or across two
    return (start - home.offset + home.at, start - home.offset + home.at + length)


def _links(relations: Iterable[Row], name: str, report: Report) -> Iterator[Link]:
    for row in relations:
        nodes = row.get("nodes") or []
        if len(nodes) == 2:
            type_ = (row.get("infons") or {}).get("type", "")
            yield Link(str(type_), str(nodes[0]["refid"]), str(nodes[1]["refid"]))
        else:  # between concepts, or among many
            report.note(Reason.UNSAYABLE, f"{name}/{row.get('id', '')}")
