"""
Routes of the five clinical tasks: a batch of documents in, an answer for each out.
"""

from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request, Response

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import TaskName
from galenic_server.answering.service import Ask
from galenic_server.http.auth import KeyedRoute, OriginDep, bearer
from galenic_server.http.deps import PartsDep, while_there
from galenic_server.schemas.tasks import (
    AnsweredBy,
    Batch,
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
        ask = Ask(task, batch.fields(), batch.adapter, batch.max_tokens)
        answered = await while_there(self.request, self.parts.service.answer(self.origin, ask))
        usage = Usage.of(answered.completions)
        self._count(usage)
        self.headers["x-galenic-adapter"] = str(answered.adapter.ref)
        self.headers["x-galenic-digest"] = answered.adapter.digest
        return Reply(
            adapter=AnsweredBy.of(answered.adapter),
            model=self.parts.service.backbone.name,
            documents=[read.of(*pair) for pair in zip(batch.ids(), answered.answers, strict=True)],
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


@router.post("/ner")
async def ner(body: Batch[NerDocument], ask: AskDep) -> Reply[NerRead]:
    """Find entities of the adapter's types, each with its place in the text."""
    return await ask(TaskName.NER, body, NerRead)


@router.post("/re")
async def re(body: Batch[ReDocument], ask: AskDep) -> Reply[ReRead]:
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
