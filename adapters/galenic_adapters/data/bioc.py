"""
Reads BioC as XML, JSON or JSON lines (http://bioc.sourceforge.net).

A BioC offset counts from the document's start. Passages are joined with one line break each, and
offsets are shifted accordingly.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from galenic_adapters.data.documents import (
    Document,
    Link,
    Mending,
    Mention,
    Reason,
    Report,
    files_of,
    json_of,
    label_of,
)
from galenic_adapters.errors import BadInput
from galenic_adapters.files import bytes_of
from galenic_adapters.tasks.spans import Offsets

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Passage:
    """Holds a passage's text with its offset in the file and its position *at* in our text."""

    offset: int
    at: int
    text: str

    def holds(self, start: int) -> bool:
        return self.offset <= start < self.offset + len(self.text)


def read_bioc(path: Path, report: Report) -> Iterator[Document]:
    """Read the documents of a file, or of all ``.xml``, ``.json`` and ``.jsonl`` of a folder."""
    for file in files_of(path, ".xml", ".json", ".jsonl"):
        is_xml = file.suffix.lower() == ".xml"
        try:
            rows = _xml(file) if is_xml else _documents(json_of(file))
            yield from (_document(row, report) for row in rows)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = f"is not BioC: {type(error).__name__}: {error}"
            raise BadInput(file.name, problem[:200]) from error


def _documents(read: Any) -> Iterator[Row]:
    """Find the documents: of a collection, of a list, or wrapped in another key by a service."""
    if isinstance(read, list):
        for item in read:
            yield from _documents(item)
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
        root = fromstring(data, forbid_dtd=False)  # BioC files name a DTD, which is never fetched
    except DefusedXmlException as error:
        raise BadInput(file.name, f"is refused: {type(error).__name__}") from error
    except ParseError as error:
        raise BadInput(file.name, f"is not XML: {error}") from error
    return [_row(document) for document in root.iter("document")]


def _row(element: Element) -> Row:
    """Convert a document, passage, sentence, annotation or relation to the form of BioC JSON."""
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
    _name_apart(row, name, report)
    for part in _parts(row):
        passage = _Passage(int(part["offset"]), len(text), part.get("text") or "")
        passages.append(passage)
        text += passage.text + "\n" if passage.text else ""
        mentions += (_mention(a, [passage], name, report) for a in part.get("annotations", ()))
    mentions += (_mention(a, passages, name, report) for a in _own_annotations(row))
    whole = _names(row)
    links = [link for part in _below(row) for link in _links(part, whole, name, report)]
    named = (replace(m, id=m.id or f"#{number}") for number, m in enumerate(mentions))
    return Document(name, text.removesuffix("\n"), tuple(named), tuple(links))


def _name_apart(row: Row, name: str, report: Report) -> None:
    """Give every annotation a unique ``name``: its id, with the passage's number if repeated."""
    before: set[str] = set()
    for number, part in enumerate(_below(row)):
        annotations = part.get("annotations", ())
        ids = {str(annotation.get("id", "")) for annotation in annotations} - {""}
        for annotation in annotations:
            id_ = str(annotation.get("id", ""))
            annotation["name"] = f"{id_}@{number}" if id_ in before else id_
        if ids & before:
            report.note(Mending.RENAMED, f"{name}@{number}")
        before |= ids


def _names(part: Row) -> dict[str, list[str]]:
    """Map each id to the names of the annotations in *part* and below that have it."""
    found: dict[str, list[str]] = {}
    for inner in _below(part):
        for annotation in inner.get("annotations", ()):
            names = found.setdefault(str(annotation.get("id", "")), [])
            names += [annotation["name"]] if annotation["name"] not in names else []
    return found


def _parts(row: Row) -> Iterator[Row]:
    """Yield the parts with text of their own: passages, or their sentences if they have none."""
    for passage in row["passages"]:
        yield from [passage] if passage.get("text") else passage.get("sentences", ())


def _own_annotations(row: Row) -> Iterator[Row]:
    """Yield annotations that are not in the same part as the text that they annotate."""
    yield from row.get("annotations", ())
    for passage in row["passages"]:
        if passage.get("text"):
            for sentence in passage.get("sentences", ()):
                yield from sentence.get("annotations", ())
        else:
            yield from passage.get("annotations", ())


def _below(part: Row) -> Iterator[Row]:
    """Yield *part*, and the passages and sentences in it."""
    yield part
    for key in ("passages", "sentences"):
        for inner in part.get(key, ()):
            yield from _below(inner)


def _mention(row: Row, passages: list[_Passage], name: str, report: Report) -> Mention:
    infons = row.get("infons") or {}
    places = tuple(_place(location, passages) for location in row.get("locations", ()))
    label, num_more = label_of(infons.get("type", ""))
    for _ in range(num_more):
        report.note(Reason.UNSAYABLE, f"{name}/{row['name']}")
    return Mention(row["name"], label, places, row.get("text") or None)


def _place(location: Row, passages: list[_Passage]) -> Offsets:
    start, length = int(location["offset"]), int(location["length"])
    home = next((p for p in passages if p.holds(start)), None)
    if home is None or start + length > home.offset + len(home.text):
        return (-1, -1)  # in no passage, or across two
    return (start - home.offset + home.at, start - home.offset + home.at + length)


def _links(part: Row, whole: dict[str, list[str]], name: str, report: Report) -> Iterator[Link]:
    here = _names(part)
    for row in part.get("relations", ()):
        ids = [str(node["refid"]) for node in row.get("nodes") or ()]
        ends = [here.get(id_) or whole.get(id_) or [id_] for id_ in ids]
        where = f"{name}/{row.get('id', '')}"
        if len(ends) != 2:  # a relation of one, or of more than two annotations
            report.note(Reason.UNSAYABLE, where)
        elif max(map(len, ends)) > 1:
            report.note(Reason.AMBIGUOUS, where)
        else:
            type_ = (row.get("infons") or {}).get("type", "")
            yield Link(str(type_), ends[0][0], ends[1][0])
