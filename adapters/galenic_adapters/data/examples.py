"""
Labelled examples in the project's JSON-lines schema, one file a split, gzipped or not.

    NER            {"id", "text", "entities": [{"start", "end", "type"}]}
    RE             {"id", "text", "head": {"start", "end", "type"}, "tail": {...}, "relation"}
    QA             {"id", "question", "context"?, "options"?, "answer"}
    NLI            {"id", "premise", "hypothesis", "label"}
    summarization  {"id", "text", "summary"}

Offsets are code points, end-exclusive.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import Example, Relation, Span, TaskName, check_text
from galenic_adapters.tasks.lists import NOTHING
from galenic_adapters.tasks.ner import NerFields
from galenic_adapters.tasks.nli import NliFields
from galenic_adapters.tasks.qa import QaFields
from galenic_adapters.tasks.re import ReFields
from galenic_adapters.tasks.spans import check_span
from galenic_adapters.tasks.summarization import SummarizationFields

MOST_FAULTS = 20


@dataclass(frozen=True, slots=True)
class Dataset:
    """The examples of one split of one task, and the labels they use, in order of first use."""

    task: TaskName
    examples: tuple[Example, ...]
    labels: tuple[str, ...]


def read_dataset(path: Path, task: str) -> Dataset:
    """
    The examples of *path*, every one checked; raises `BadInput` that names the faulty lines.
    """
    name = TaskName(task)
    faults: list[str] = []
    examples: list[Example] = []
    seen: set[str] = set()
    for number, line in enumerate(_lines(path), start=1):
        try:
            example = _READ[name](json.loads(line))
        except json.JSONDecodeError as e:
            faults.append(f"line {number}: not JSON ({e.msg} at column {e.colno})")
        except (KeyError, TypeError, AttributeError) as e:
            faults.append(f"line {number}: missing or mistyped field ({type(e).__name__}: {e})")
        except BadInput as e:
            faults.append(f"line {number}: {e}")
        else:
            if example.id in seen:
                faults.append(f"line {number}: id {example.id[:80]!r} appears a second time")
            seen.add(example.id)
            examples.append(example)
    if faults:
        more = f" (and {len(faults) - MOST_FAULTS} more)" if len(faults) > MOST_FAULTS else ""
        raise BadInput(path.name, "; ".join(faults[:MOST_FAULTS]) + more)
    if not examples:
        raise BadInput(path.name, "holds no example")
    return Dataset(name, tuple(examples), labels_of(examples))


def _lines(path: Path) -> Iterable[str]:
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            yield from (line for line in file if line.strip())
    except UnicodeDecodeError as e:
        raise BadInput(path.name, f"is not UTF-8 at byte {e.start}") from e
    except OSError as e:
        raise BadInput(path.name, f"cannot be read: {e.strerror or e}") from e


def labels_of(examples: Sequence[Example]) -> tuple[str, ...]:
    """The types, relations or labels of *examples*; none for QA and summarization."""
    seen: dict[str, None] = {}
    for example in examples:
        match example.fields:
            case NerFields():
                seen.update(dict.fromkeys(span.type for span in example.value))
            case ReFields(head=head):
                types = [relation.type for relation in example.value]
                seen.update(dict.fromkeys(types or ([NOTHING] if head else [])))
            case NliFields():
                seen[example.value] = None
    return tuple(sorted(seen))


def with_lists(examples: Sequence[Example]) -> list[Example]:
    """
    RE examples about pairs, and one more a text that asks for all its relations at once.
    """
    by_text = sorted(examples, key=lambda example: example.fields.text)
    lists = []
    for text, group in groupby(by_text, key=lambda example: example.fields.text):
        members = list(group)
        relations = tuple(relation for example in members for relation in example.value)
        lists.append(Example(members[0].id + "/list", ReFields(text), relations))
    return [*examples, *lists]


def _span(row: dict[str, Any], text: str, field: str) -> Span:
    start, end = int(row["start"]), int(row["end"])
    span = Span(start, end, text[start:end] if 0 <= start <= end else "", str(row["type"]))
    check_span(field, span, text)
    return span


def _ner(row: dict[str, Any]) -> Example:
    text = row["text"]
    spans = tuple(_span(e, text, f"entities[{i}]") for i, e in enumerate(row["entities"]))
    return Example(str(row["id"]), NerFields(text), spans)


def _re(row: dict[str, Any]) -> Example:
    text = row["text"]
    head, tail = _span(row["head"], text, "head"), _span(row["tail"], text, "tail")
    check_text("relation", row["relation"])
    relation = () if row["relation"] == NOTHING else (Relation(row["relation"], head, tail),)
    return Example(str(row["id"]), ReFields(text, head, tail), relation)


def _qa(row: dict[str, Any]) -> Example:
    fields = QaFields(row["question"], row.get("context"), row.get("options"))
    check_text("answer", row["answer"])
    if fields.options and row["answer"] not in fields.options:
        letters = ", ".join(fields.options)
        raise BadInput("answer", f"{row['answer'][:8]!r} is none of the options {letters}")
    return Example(str(row["id"]), fields, row["answer"])


def _nli(row: dict[str, Any]) -> Example:
    fields = NliFields(row["premise"], row["hypothesis"])
    return Example(str(row["id"]), fields, check_text("label", row["label"]))


def _summarization(row: dict[str, Any]) -> Example:
    fields = SummarizationFields(row["text"])
    return Example(str(row["id"]), fields, check_text("summary", row["summary"]))


_READ: dict[TaskName, Callable[[dict[str, Any]], Example]] = {
    TaskName.NER: _ner,
    TaskName.RE: _re,
    TaskName.QA: _qa,
    TaskName.NLI: _nli,
    TaskName.SUMMARIZATION: _summarization,
}
