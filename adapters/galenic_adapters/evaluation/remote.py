"""
Evaluates an adapter of a running server over HTTP, with the metrics used in this process.
"""

from collections.abc import Callable, Sequence
from typing import Any

from galenic_adapters.evaluation.scores import Scores, score
from galenic_adapters.tasks.base import (
    Answer,
    Example,
    Reading,
    Relation,
    Span,
    Task,
    TaskName,
)
from galenic_client import Client

BATCH = 32
"""The most documents of one request."""


def ask_all(
    client: Client, adapter: str, task: Task[Any, Any], examples: Sequence[Example]
) -> list[Answer[Any]]:
    """Ask the server about all *examples*; answers are in order. Raises the client's errors."""
    ask = _ASK[task.name]
    answers = []
    for first in range(0, len(examples), BATCH):
        documents = [_document(example) for example in examples[first : first + BATCH]]
        reply = ask(client)(documents, adapter=adapter, max_tokens=None)
        answers += [_answer(task.name, document) for document in reply.documents]
    return answers


def evaluate_remote(
    client: Client, adapter: str, task: Task[Any, Any], examples: Sequence[Example]
) -> tuple[Scores, list[dict[str, Any]]]:
    """Return the adapter's scores on *examples*, and one JSON-ready record per example."""
    answers = ask_all(client, adapter, task, examples)
    records = [
        {"id": example.id, "value": _as_json(answer.value), "reading": answer.reading}
        for example, answer in zip(examples, answers, strict=True)
    ]
    return score(task.name, examples, answers), records


_ASK: dict[TaskName, Callable[[Client], Callable[..., Any]]] = {
    TaskName.NER: lambda client: client.ner,
    TaskName.RE: lambda client: client.re,
    TaskName.QA: lambda client: client.qa,
    TaskName.NLI: lambda client: client.nli,
    TaskName.SUMMARIZATION: lambda client: client.summarize,
}


def _document(example: Example) -> dict[str, Any]:
    names = example.fields.__dataclass_fields__
    given = {name: getattr(example.fields, name) for name in names}
    return {
        name: {"start": value.start, "end": value.end} if isinstance(value, Span) else value
        for name, value in given.items()
        if value is not None
    }


def _answer(task: TaskName, document: Any) -> Answer[Any]:
    value: Any
    match task:
        case TaskName.NER:
            found = document.entities
            value = None if found is None else tuple(map(_span, found))
        case TaskName.RE:
            found = document.relations
            value = None if found is None else tuple(map(_relation, found))
        case TaskName.QA:
            value = document.answer
        case TaskName.NLI:
            value = document.label
        case _:
            value = document.summary
    # What the server cannot answer (a text beyond the context) counts as wrong, as it does here.
    reading = Reading(document.reading or Reading.OFF_SCHEMA)
    return Answer(value, reading, document.confidence)


def _relation(found: Any) -> Relation:
    return Relation(found.type, _span(found.head), _span(found.tail))


def _span(found: Any) -> Span:
    return Span(found.start, found.end, found.text, found.type)


def _as_json(value: Any) -> Any:
    """Convert an answer to JSON; spans are offsets, relations keep the words of their entities."""
    if not isinstance(value, tuple):
        return value
    return [
        {"start": item.start, "end": item.end, "type": item.type}
        if isinstance(item, Span)
        else {"type": item.type, "head": item.head.text, "tail": item.tail.text}
        for item in value
    ]
