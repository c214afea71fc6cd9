"""
Writes examples as rows of our schema, which `galenic_adapters.data.examples` reads.
"""

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from galenic_adapters.errors import BadInput
from galenic_adapters.files import write_whole
from galenic_adapters.tasks.base import Example, Span
from galenic_adapters.tasks.lists import NOTHING
from galenic_adapters.tasks.ner import NerFields
from galenic_adapters.tasks.nli import NliFields
from galenic_adapters.tasks.qa import QaFields
from galenic_adapters.tasks.re import ReFields
from galenic_adapters.tasks.summarization import SummarizationFields


def write_dataset(path: Path, examples: Sequence[Example]) -> None:
    """Write *examples* in the form of `read_dataset`, gzipped if the name ends in ``.gz``."""
    write_rows(path, map(row_of, examples))


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON line per row, atomically; raises `BadInput` if *path* cannot be written."""
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
    write_whole(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def row_of(example: Example) -> dict[str, Any]:
    """Convert *example* to a row; raises `BadInput` for RE examples that are not about a pair."""
    fields, value = example.fields, example.value
    row: dict[str, Any]
    match fields:
        case NerFields():
            row = {"text": fields.text, "entities": [_place(span) for span in value]}
        case ReFields(text=text, head=Span() as head, tail=Span() as tail):
            relation = value[0].type if value else NOTHING
            row = {"text": text, "head": _place(head), "tail": _place(tail), "relation": relation}
        case QaFields():
            asked = {"context": fields.context, "options": fields.options}
            given = {name: value for name, value in asked.items() if value is not None}
            row = {"question": fields.question, **given, "answer": value}
        case NliFields():
            row = {"premise": fields.premise, "hypothesis": fields.hypothesis, "label": value}
        case SummarizationFields():
            row = {"text": fields.text, "summary": value}
        case _:
            raise BadInput("fields", f"{type(fields).__name__} of this kind has no row")
    return {"id": example.id, **row}


def _place(span: Span) -> dict[str, Any]:
    return {"start": span.start, "end": span.end, "type": span.type}
