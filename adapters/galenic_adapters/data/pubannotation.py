"""
PubAnnotation JSON (https://www.pubannotation.org/docs/annotation-format): one object, a list of
them, or one a line. Discontinuous mentions come as a bag of spans or as chained fragments.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from galenic_adapters.data.documents import (
    Document,
    Link,
    Mention,
    Place,
    Reason,
    Report,
    files_of,
    text_of,
)
from galenic_adapters.errors import BadInput

CHAINED = "_lexicallyChainedTo"

Row = dict[str, Any]


def read_pubannotation(path: Path, report: Report) -> Iterator[Document]:
    """The documents of a file, or of all ``.json`` and ``.jsonl`` files of a folder."""
    for file in files_of(path, ".json", ".jsonl"):
        for number, row in enumerate(_rows(file)):
            try:
                yield _document(row, f"{file.stem}-{number}", report)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                problem = f"item {number} is not PubAnnotation: {type(error).__name__}: {error}"
                raise BadInput(file.name, problem[:200]) from error


def _rows(file: Path) -> list[Row]:
    text = text_of(file)
    try:
        if file.suffix == ".jsonl":
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        read = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadInput(file.name, f"is not JSON: {error}"[:200]) from error
    return read if isinstance(read, list) else [read]


def _document(row: Row, otherwise: str, report: Report) -> Document:
    if row.get("tracks"):
        raise ValueError("it holds tracks of several projects; export one project")
    named = [str(row[key]) for key in ("sourcedb", "sourceid", "divid") if row.get(key) is not None]
    name = "/".join(named) or otherwise
    for kind in ("attributes", "modifications"):
        for one in row.get(kind) or ():
            report.note(Reason.UNSAYABLE, f"{name}/{one.get('id', '')}")
    links = [Link(r["pred"], r["subj"], r["obj"]) for r in row.get("relations") or ()]
    told = [_mention(one, number) for number, one in enumerate(row.get("denotations") or ())]
    mentions = _unchained(told, links)
    kept = tuple(link for link in links if link.type != CHAINED)
    return Document(name, row["text"], tuple(mentions), kept)


def _mention(row: Row, number: int) -> Mention:
    span = row["span"]
    places = tuple(_place(one) for one in (span if isinstance(span, list) else [span]))
    return Mention(str(row.get("id", f"#{number}")), str(row["obj"]), places)


def _place(span: Row) -> Place:
    return (int(span["begin"]), int(span["end"]))


def _unchained(mentions: list[Mention], links: list[Link]) -> Iterator[Mention]:
    """Mentions without the fragments, whose places go to the mention that they are chained to."""
    before = {link.head: link.tail for link in links if link.type == CHAINED}
    fragments: dict[str, tuple[Place, ...]] = {}
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
