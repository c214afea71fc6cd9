"""
Answers clinical tasks over chat, exactly as the task's own route does.

A single user message to a task's adapter is rendered by the task's template and answered under its
constraint. The message is the plain text (NER, RE, summarization) or question (QA), two lines
``First: …`` and ``Second: …`` (NLI), or, for any task, a document in the JSON of the task's route.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import Completion, Constraint, Message, Task, TaskName
from galenic_adapters.tasks.confidence import Calibration, calibrated
from galenic_adapters.tasks.lookup import make_task
from galenic_server.registry.names import Resolved
from galenic_server.schemas.openai import ChatBody
from galenic_server.schemas.tasks import (
    Document,
    NerDocument,
    NerRead,
    NliDocument,
    NliRead,
    QaDocument,
    QaRead,
    Read,
    ReDocument,
    ReRead,
    SummarizeDocument,
    SummarizeRead,
)

FORMS: dict[TaskName, tuple[type[Document], type[Read]]] = {
    TaskName.NER: (NerDocument, NerRead),
    TaskName.RE: (ReDocument, ReRead),
    TaskName.QA: (QaDocument, QaRead),
    TaskName.NLI: (NliDocument, NliRead),
    TaskName.SUMMARIZATION: (SummarizeDocument, SummarizeRead),
}
PAIR = re.compile(r"First: (?P<premise>.+?)\nSecond: (?P<hypothesis>.+)", re.DOTALL)
PATH = "messages[0].content"


@dataclass(frozen=True, slots=True)
class Clinical:
    """Holds a task's question that came as a chat."""

    task: Task[Any, Any]
    fields: Any
    id: str
    calibration: Calibration | None = None

    @classmethod
    def of(cls, adapter: Resolved, body: ChatBody) -> "Clinical":
        """Read the message as a question for *adapter*'s task; raises `BadInput` if it is none."""
        manifest = adapter.manifest
        document = _document(manifest.task, body.spoken[0].text)
        try:
            fields = document.fields()
        except BadInput as error:
            raise error.under(PATH) from None
        task = make_task(manifest.task, manifest.labels)
        return cls(task, fields, document.id or "0", manifest.calibration)

    @property
    def messages(self) -> tuple[Message, ...]:
        return self.task.render(self.fields)

    @property
    def constraint(self) -> Constraint | None:
        return self.task.constraint(self.fields)

    @property
    def max_tokens(self) -> int:
        return self.task.max_tokens(self.fields)

    def metadata(self, completion: Completion) -> dict[str, str]:
        """
        Return OpenAI's metadata with the structured answer.

        Its values must be strings, so the answer is the JSON that the task's route returns.
        """
        answer = calibrated(self.task.read(completion, self.fields), self.calibration)
        read = FORMS[self.task.name][1].of(self.id, answer)
        return {
            "task": self.task.name,
            "reading": answer.reading,
            "answer": read.model_dump_json(),
        }


def _document(task: TaskName, text: str) -> Document:
    form = FORMS[task][0]
    given = _object(text)
    if not given or not given.keys() <= form.model_fields.keys():
        given = _from_text(task, text)
    try:
        return form.model_validate(given)
    except ValidationError:
        raise BadInput(PATH, f"is not the JSON of a document for {task}") from None


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _from_text(task: TaskName, text: str) -> dict[str, Any]:
    if task is TaskName.QA:
        return {"question": text}
    if task is not TaskName.NLI:
        return {"text": text}
    pair = PAIR.fullmatch(text)
    if pair is None:
        forms = "lines 'First: …' and 'Second: …', or JSON with premise and hypothesis"
        raise BadInput(PATH, f"holds no two texts; an adapter for nli takes {forms}")
    return pair.groupdict()
