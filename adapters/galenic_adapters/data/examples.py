"""
Reads labelled examples in the project's JSON-lines schema, one file per split, gzipped or not.

    NER            {"id", "text", "entities": [{"start", "end", "type"}]}
    RE             {"id", "text", "head": {"start", "end", "type"}, "tail": {...}, "relation"}
    QA             {"id", "question", "context"?, "options"?, "answer"}
    NLI            {"id", "premise", "hypothesis", "label"}
    summarization  {"id", "text", "summary"}

Offsets are code points, end-exclusive.
"""

import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from galenic_adapters.errors import BadInput
from galenic_adapters.files import UTF16_MARKS
from galenic_adapters.tasks.base import (
    Completion,
    Example,
    Relation,
    Span,
    Task,
    TaskName,
    check_text,
)
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
    """Holds the examples of one split of one task, and the labels that they use, sorted."""

    task: TaskName
    examples: tuple[Example, ...]
    labels: tuple[str, ...]


def read_dataset(path: Path, task: str, labels: Sequence[str] = ()) -> Dataset:
    """
    Read and check every example in *path*.

    If *labels* are given, an example may use no others. Raises `BadInput` that lists the faulty
    lines, up to `MOST_FAULTS` of them.
    """
    if task not in _READ:
        raise BadInput("task", f"{task[:64]!r} is none of {', '.join(_READ)}")
    name = TaskName(task)
    faults: list[str] = []
    examples: dict[str, Example] = {}
    for number, line in _lines(path):
        try:
            example = _example(name, line)
            _check_known(example, labels)
            if example.id in examples:
                raise BadInput("id", f"{example.id[:80]!r} appears a second time")
        except BadInput as fault:
            faults.append(f"line {number}: {fault}")
        else:
            examples[example.id] = example
    if faults:
        listed = faults[:MOST_FAULTS]
        if len(faults) > MOST_FAULTS:
            listed.append(f"and {len(faults) - MOST_FAULTS} more")
        raise BadInput(path.name, f"\n{path.name}: ".join(listed))
    if not examples:
        raise BadInput(path.name, "holds no example")
    return Dataset(name, tuple(examples.values()), labels_of(tuple(examples.values())))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank with their numbers, from 1; raises `BadInput`."""
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.startswith(UTF16_MARKS):
                    raise BadInput(path.name, "is UTF-16; save it as UTF-8")
                if line.strip(codecs.BOM_UTF8).strip():
                    yield number, line.removeprefix(codecs.BOM_UTF8)
    except (OSError, EOFError, zlib.error) as e:  # the last two for a truncated gzip file
        problem = getattr(e, "strerror", None) or e
        raise BadInput(path.name, f"cannot be read: {problem}") from e


def _example(task: TaskName, line: bytes) -> Example:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as e:
        raise BadInput("line", f"is not UTF-8 at its byte {e.start}") from e
    except json.JSONDecodeError as e:
        raise BadInput("line", f"is not JSON ({e.msg} at column {e.colno})") from e
    except RecursionError as e:
        raise BadInput("line", "is nested too deeply") from e
    if isinstance(row, dict) and (other := _other_task(task, row)):
        raise BadInput("task", f"has the fields of {other}, not of {task}; a file holds one task")
    try:
        return _READ[task](row)
    except (KeyError, TypeError, AttributeError) as e:
        what = f"missing or mistyped field ({type(e).__name__}: {e})"
        raise BadInput("fields", what[:200]) from e


_TELLING = {
    TaskName.NER: "entities",
    TaskName.RE: "relation",
    TaskName.QA: "question",
    TaskName.NLI: "hypothesis",
    TaskName.SUMMARIZATION: "summary",
}
"""A field that only this task's examples have."""


def _other_task(task: TaskName, row: dict[str, Any]) -> TaskName | None:
    if _TELLING[task] in row:
        return None
    return next((other for other, field in _TELLING.items() if field in row), None)


def _check_known(example: Example, labels: Sequence[str]) -> None:
    """Raise `BadInput` if *example* uses a label that is not among *labels*, if there are any."""
    unknown = set(labels_of([example])) - set(labels)
    if labels and unknown:
        listed = ", ".join(sorted(map(repr, unknown))[:5])
        raise BadInput("labels", f"{listed[:200]} is none of {', '.join(labels)[:200]}")


def unsayable(task: Task[Any, Any], examples: Sequence[Example]) -> dict[str, str]:
    """
    Find examples whose answer does not read back as it was written; returns problems by id.

    For NER these are entities inside others of their type, mentions that are annotated at some of
    their places only, and entities with space at their ends.
    """
    problems = {}
    for example in examples:
        written = Completion(task.write(example.value, example.fields), "stop")
        heard = task.read(written, example.fields)
        if heard.value is None:
            problems[example.id] = f"its answer reads back as {heard.reading}"
        elif isinstance(example.fields, NerFields):
            if problem := _unlike(set(example.value), set(heard.value)):
                problems[example.id] = problem
        elif heard.value != example.value:
            problems[example.id] = "its answer reads back as a different one"
    return problems


def _unlike(spans: set[Span], heard: set[Span]) -> str | None:
    if padded := [span for span in spans if span.text != span.text.strip()]:
        return f"{len(padded)} of {len(spans)} entities begin or end in space, as no answer does"
    if lost := len(spans - heard):
        return f"{lost} of {len(spans)} entities cannot be answered"
    if more := len(heard - spans):
        return f"{more} mentions that are not annotated count as entities"
    return None


def num_over_line_ends(examples: Sequence[Example]) -> int:
    """Count the entities that run over a line end; their answers have a space there."""
    spans = (s for e in examples if isinstance(e.fields, NerFields) for s in e.value)
    return sum(len(span.text.splitlines()) > 1 for span in spans)


def labels_of(examples: Sequence[Example]) -> tuple[str, ...]:
    """Return the distinct types, relations or labels of *examples*; none for QA and summaries."""
    return tuple(sorted({label for example in examples for label in labels_used(example)}))


def labels_used(example: Example) -> list[str]:
    """Return the type, relation or label of each item in *example*'s answer."""
    match example.fields:
        case NerFields():
            return [span.type for span in example.value]
        case ReFields(head=head):
            relations = [relation.type for relation in example.value]
            return relations or ([NOTHING] if head else [])
        case NliFields():
            return [example.value]
    return []


def with_lists(examples: Sequence[Example]) -> list[Example]:
    """
    Return the RE examples, which are about pairs, and one per text that asks for all relations.
    """
    by_text = sorted(examples, key=lambda example: example.fields.text)
    lists = []
    for text, group in groupby(by_text, key=lambda example: example.fields.text):
        members = list(group)
        relations = tuple(relation for example in members for relation in example.value)
        lists.append(Example(members[0].id + "/list", ReFields(text), relations))
    return [*examples, *lists]


def _span(row: dict[str, Any], text: str, field: str) -> Span:
    start, end = row["start"], row["end"]
    if not (type(start) is type(end) is int):
        kinds = f"{type(start).__name__} and {type(end).__name__}"
        raise BadInput(field, f"start and end are {kinds}, not whole numbers")
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
