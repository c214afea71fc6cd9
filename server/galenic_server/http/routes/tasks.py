"""
Routes of the five clinical tasks: a batch of documents in, an answer for each out.
"""

from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request, Response

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import TaskName
from galenic_server.answering.service import Ask
from galenic_server.http import faults
from galenic_server.http.auth import KeyedRoute, OriginDep, bearer
from galenic_server.http.deps import PartsDep, while_there
from galenic_server.schemas.tasks import (
    AnsweredBy,
    Batch,
    Broken,
    DocumentError,
    NerDocument,
    NerRead,
    NliDocument,
    NliRead,
    QaDocument,
    QaRead,
    Read,
    ReDocument,
    Reply,
    ReRead,
    SpanBatch,
    SummarizeDocument,
    SummarizeRead,
    Usage,
)

router = APIRouter(
    prefix="/v1", tags=["tasks"], route_class=KeyedRoute, dependencies=[Depends(bearer)]
)

R = TypeVar("R", bound=Read)


class Asking:
    """Answers one request's batch."""

    def __init__(
        self, request: Request, response: Response, origin: OriginDep, parts: PartsDep
    ) -> None:
        self.request = request
        self.headers = response.headers
        self.origin = origin
        self.parts = parts

    async def __call__(self, task: TaskName, batch: Batch[Any], read: type[R]) -> Reply[R]:
        self.request.state.task = str(task)
        self._check_size(batch)
        ids = batch.ids()
        fields, errors = read_documents(batch)
        if not fields:
            raise faults.joined(list(errors.values()))
        ask = Ask(task, fields, batch.adapter, batch.max_tokens)
        answered = await while_there(self.request, self.parts.service.answer(self.origin, ask))
        outcomes: dict[int, Any] = errors | dict(answered.answers)
        if not answered.completions:
            raise faults.joined([outcomes[i] for i in range(len(ids))])
        usage = Usage.of(answered.completions)
        self._count(usage)
        self.headers["x-galenic-adapter"] = str(answered.adapter.ref)
        self.headers["x-galenic-digest"] = answered.adapter.digest

        def reply_to(i: int, id_: str) -> R:
            outcome = outcomes[i]
            if isinstance(outcome, Exception):
                return read.failed(id_, DocumentError(**faults.problem(self.request, outcome)))
            return read.of(id_, outcome, batch.ruler_of(fields[i]))

        return Reply(
            adapter=AnsweredBy.of(answered.adapter),
            model=self.parts.service.backbone.name,
            documents=[reply_to(i, id_) for i, id_ in enumerate(ids)],
            usage=usage,
        )

    def _check_size(self, batch: Batch[Any]) -> None:
        most = self.parts.settings.max_documents
        if len(batch.documents) > most:
            raise BadInput(
                "documents", f"{len(batch.documents)} in one batch; at most {most} are taken"
            )

    def _count(self, usage: Usage) -> None:
        counts = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
        self.parts.metrics.count_tokens(self.origin.tenant, *counts)


AskDep = Annotated[Asking, Depends()]


def read_documents(batch: Batch[Any]) -> tuple[dict[int, Any], dict[int, Exception]]:
    """Return the fields of each document by its place, and the errors of those at fault."""
    fields: dict[int, Any] = {}
    errors: dict[int, Exception] = {}
    for i, document in enumerate(batch.documents):
        if isinstance(document, Broken):
            errors[i] = faults.invalid(("body", "documents", i), document.sent, document.faults)
            continue
        try:
            fields[i] = document.fields(batch.unit)
        except BadInput as error:
            errors[i] = error.under(f"documents[{i}]")
    return fields, errors


@router.post("/ner")
async def ner(body: SpanBatch[NerDocument], ask: AskDep) -> Reply[NerRead]:
    """Find entities of the adapter's types, each with its place in the text."""
    return await ask(TaskName.NER, body, NerRead)


@router.post("/re")
async def re(body: SpanBatch[ReDocument], ask: AskDep) -> Reply[ReRead]:
    """Label how a head and a tail relate, or list every relation in the text."""
    return await ask(TaskName.RE, body, ReRead)


@router.post("/qa")
async def qa(body: Batch[QaDocument], ask: AskDep) -> Reply[QaRead]:
    """Answer with the letter of an option, or with a short text."""
    return await ask(TaskName.QA, body, QaRead)


@router.post("/nli")
async def nli(body: Batch[NliDocument], ask: AskDep) -> Reply[NliRead]:
    """Label how the hypothesis relates to the premise."""
    return await ask(TaskName.NLI, body, NliRead)


@router.post("/summarize")
async def summarize(body: Batch[SummarizeDocument], ask: AskDep) -> Reply[SummarizeRead]:
    """Summarize the text."""
    return await ask(TaskName.SUMMARIZATION, body, SummarizeRead)
