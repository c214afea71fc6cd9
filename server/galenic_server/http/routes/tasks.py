"""
Routes of the five clinical tasks: a batch of documents in, an answer for each out.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request, Response

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import TaskName
from galenic_server.answering.service import Ask
from galenic_server.http import faults
from galenic_server.http.auth import KeyedRoute, OriginDep, bearer
from galenic_server.http.deps import PartsDep, while_there
from galenic_server.schemas.offsets import OffsetUnit, Ruler
from galenic_server.schemas.tasks import (
    AnsweredBy,
    Batch,
    Broken,
    Document,
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
        given = fields_of(batch)
        self._refuse_if_all_failed(given)
        fields = {i: one for i, one in given.items() if not isinstance(one, Exception)}
        ask = Ask(task, fields, batch.adapter, batch.max_tokens)
        answered = await while_there(self.request, self.parts.service.answer(self.origin, ask))
        outcomes = given | dict(answered.answers)
        self._refuse_if_all_failed(outcomes)
        usage = Usage.of(answered.completions)
        self._count(usage)
        self.headers["x-galenic-adapter"] = str(answered.adapter.ref)
        self.headers["x-galenic-digest"] = answered.adapter.digest

        def reply_to(i: int, id_: str) -> R:
            outcome = outcomes[i]
            if isinstance(outcome, Exception):
                return read.failed(id_, DocumentError(**faults.problem(self.request, outcome)))
            return read.of(id_, outcome, Ruler.of(getattr(fields[i], "text", ""), batch.unit))

        return Reply(
            adapter=AnsweredBy.of(answered.adapter),
            model=self.parts.service.backbone.name,
            documents=[reply_to(i, id_) for i, id_ in enumerate(ids)],
            usage=usage,
        )

    def _refuse_if_all_failed(self, outcomes: Mapping[int, Any]) -> None:
        """Raise the documents' errors if none of them can be answered."""
        errors = [one for one in outcomes.values() if isinstance(one, Exception)]
        if len(errors) == len(outcomes):
            raise faults.joined(errors)

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


def fields_of(batch: Batch[Any]) -> dict[int, Any]:
    """Return each document's fields by its place, or the error that it has none for."""
    return {i: _fields(i, document, batch.unit) for i, document in enumerate(batch.documents)}


def _fields(i: int, document: Document | Broken, unit: OffsetUnit) -> Any:
    if isinstance(document, Broken):
        return faults.invalid(("body", "documents", i), document.sent, document.faults)
    try:
        return document.fields(unit)
    except BadInput as error:
        return error.under(f"documents[{i}]")


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
