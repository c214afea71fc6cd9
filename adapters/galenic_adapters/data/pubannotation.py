"""
Reads PubAnnotation JSON (https://www.pubannotation.org/docs/annotation-format).

A file is one object, a list of them, or one per line. Discontinuous mentions are a bag of spans or
chained fragments. Files of its first years (``catanns``, ``relanns``) are read too. Lists of other
names are reported as left out.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from galenic_adapters.data.documents import (
    Document,
    Link,
    Mention,
    Reason,
    Report,
    files_of,
    json_of,
    label_of,
)
from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.spans import Offsets

CHAINED = "_lexicallyChainedTo"
NAMES = ("sourcedb", "source_db", "sourceid", "source_id", "divid", "division_id")
TAKEN = {
    *("text", "denotations", "catanns", "relations", "relanns", "insanns", "tracks"),
    "namespaces",  # short forms of web addresses, no annotations
}

Row = dict[str, Any]


def read_pubannotation(path: Path, report: Report) -> Iterator[Document]:
    """Read the documents of a file, or of all ``.json`` and ``.jsonl`` files of a folder."""
    for file in files_of(path, ".json", ".jsonl"):
        for number, row in enumerate(_rows(file)):
            try:
                yield _document(row, f"{file.stem}-{number}", report)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                problem = f"item {number} is not PubAnnotation: {type(error).__name__}: {error}"
                raise BadInput(file.name, problem[:200]) from error


def _rows(file: Path) -> Iterator[Row]:
    for value in json_of(file):
        yield from value if isinstance(value, list) else [value]


def _document(row: Row, otherwise: str, report: Report) -> Document:
    if row.get("tracks"):
        raise ValueError("it holds tracks of several projects; export one project")
    named = [str(row[key]) for key in NAMES if row.get(key) is not None]
    name = "/".join(named) or otherwise
    for key in row.keys() - TAKEN:
        for item in row[key] if isinstance(row[key], list) else ():
            id_ = item.get("id", key) if isinstance(item, dict) else key
            report.note(Reason.UNSAYABLE, f"{name}/{id_}")
    instances = {item["id"]: _either(item, "object", "obj") for item in _all(row, "insanns")}
    links = [_link(relation, instances) for relation in _all(row, "relations", "relanns")]
    fragments = [
        _mention(denotation, number, name, report)
        for number, denotation in enumerate(_all(row, "denotations", "catanns"))
    ]
    mentions = _unchained(fragments, links)
    kept = tuple(link for link in links if link.type != CHAINED)
    return Document(name, row["text"], tuple(mentions), kept)


def _all(row: Row, *keys: str) -> list[Row]:
    return [item for key in keys for item in row.get(key) or ()]


def _either(row: Row, *keys: str) -> Any:
    """Return the value of the first of *keys* that *row* has; raises `KeyError`."""
    return row[next((key for key in keys if key in row), keys[0])]


def _link(row: Row, instances: dict[str, str]) -> Link:
    head, tail = _either(row, "subj", "subject"), _either(row, "obj", "object")
    type_ = str(_either(row, "pred", "type"))
    return Link(type_, instances.get(head, head), instances.get(tail, tail))


def _mention(row: Row, number: int, name: str, report: Report) -> Mention:
    id_ = str(row.get("id", f"#{number}"))
    label, num_more = label_of(_either(row, "obj", "category"))
    for _ in range(num_more):
        report.note(Reason.UNSAYABLE, f"{name}/{id_}")
    span = row.get("span", row)
    places = tuple(_place(part) for part in (span if isinstance(span, list) else [span]))
    return Mention(id_, label, places)


def _place(span: Row) -> Offsets:
    return (int(span["begin"]), int(span["end"]))


def _unchained(mentions: list[Mention], links: list[Link]) -> Iterator[Mention]:
    """Merge chained fragments into the mention that they are chained to."""
    before = {link.head: link.tail for link in links if link.type == CHAINED}
    fragments: dict[str, tuple[Offsets, ...]] = {}
    for mention in mentions:
        root = _root(mention.id, before)
        if root != mention.id:
            fragments[root] = fragments.get(root, ()) + mention.places
    for mention in mentions:
        if mention.id not in before:
            places = sorted(mention.places + fragments.get(mention.id, ()))
            yield replace(mention, places=tuple(places))


def _root(id_: str, before: dict[str, str]) -> str:
    passed: set[str] = set()
    while id_ in before and id_ not in passed:
        passed.add(id_)
        id_ = before[id_]
    if id_ in passed:
        raise ValueError("fragments are chained in a ring")
    return id_
