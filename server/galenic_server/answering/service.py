"""
Answers batches of documents and chats, without knowing HTTP.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from anyio.to_thread import run_sync

from galenic_adapters.backbone import encode as chat
from galenic_adapters.errors import (
    BadInput,
    GalenicError,
    NotServed,
    Quarantined,
    TooLong,
    Unavailable,
    WrongTask,
)
from galenic_adapters.package.file import Fit
from galenic_adapters.refs import SHARED
from galenic_adapters.tasks.base import (
    Answer,
    Completion,
    Message,
    Task,
    TaskName,
)
from galenic_adapters.tasks.confidence import calibrated
from galenic_adapters.tasks.lookup import make_task
from galenic_server.admission.threads import TenantThreads
from galenic_server.answering.chat_task import Clinical
from galenic_server.database.cache import Remembered
from galenic_server.database.changes import Change, Changes, Kind
from galenic_server.engine.contract import (
    Call,
    Engine,
    OpenAIReply,
    Request,
    Sampling,
    complete,
)
from galenic_server.registry.names import Names, Resolved
from galenic_server.schemas.openai import ChatBody, OpenAIBody
from galenic_server.schemas.tasks import AnsweredBy

RESOLVED_SECONDS = 60.0
CHARACTERS_OF_TOKEN = 10  # more than any text has; what has more is not made tokens of
MEANING = frozenset({Kind.ADAPTER, Kind.DELETION, Kind.ALIAS, Kind.SHARE, Kind.TENANT})


@dataclass(frozen=True, slots=True)
class Origin:
    """Names the tenant that sent a request, and the request's id in the log."""

    tenant: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Ask:
    """
    Asks one task about a batch of documents; without *adapter*, the task's default answers.

    documents: the fields of each, by its place in the request.
    """

    task: TaskName
    documents: Mapping[int, Any]
    adapter: str | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """Holds each document's answer or error by its place, and the adapter that answered."""

    adapter: Resolved
    answers: Mapping[int, Answer[Any] | GalenicError]
    completions: Sequence[Completion]


@dataclass(frozen=True, slots=True)
class Talk:
    """Holds an OpenAI client's request in progress; *clinical* is set if it asks a task."""

    adapter: Resolved | None
    call: Call
    clinical: Clinical | None
    reply: OpenAIReply

    def extensions(self) -> dict[str, Any]:
        """Return the fields that a complete reply has beyond OpenAI's."""
        adapter = AnsweredBy.of(self.adapter).model_dump() if self.adapter else None
        used = {"adapter": adapter}
        if self.clinical is None:
            return used
        return used | {"metadata": self.clinical.metadata(self.call.completion)}


class Service:
    """
    Answers requests with an engine that others start and stop.

    is_open: tells whether the engine has started; until then requests are refused.   listing: where
    long lists are read.
    """

    def __init__(
        self,
        names: Names,
        changes: Changes,
        engine: Engine,
        *,
        fit: Fit,
        is_open: Callable[[], bool],
        spend: Callable[[str, int], None] = lambda tenant, num_tokens: None,
        stale_seconds: float = 900.0,
    ) -> None:
        self._names = names
        self.engine = engine
        self.fit = fit
        self.backbone = fit.backbone
        self._is_open = is_open
        self._spend = spend
        # Names are cached: correct while changes are followed, stale while the database is away.
        self._resolved = Remembered[tuple[str, str], Resolved](
            fresh_seconds=RESOLVED_SECONDS,
            stale_seconds=stale_seconds,
            is_current=lambda: changes.is_current,
            most=100_000,
        )
        changes.listen(self._heard)
        self._tokenizing = TenantThreads(2)
        self.listing = TenantThreads(2)

    async def answer(self, origin: Origin, ask: Ask) -> Answered:
        """
        Answer a batch; all of it is checked before the first document runs.

        A document that is at fault itself has a `BadInput` or `Quarantined` for its answer. Raises
        `NotFound`, `WrongTask`, `Unavailable` and what else admission raises.
        """
        self._check_open()
        adapter = await self._fitting(origin, ask.adapter or ask.task)
        task = _task_of(adapter, ask.task)
        requests, errors = await self._requests(origin, adapter, task, ask)
        outcomes = await self._complete_all(requests)
        answers: dict[int, Answer[Any] | GalenicError] = dict(errors)
        completions = []
        for i, outcome in outcomes.items():
            if isinstance(outcome, Completion):
                completions.append(outcome)
                answer = task.read(outcome, ask.documents[i])
                answers[i] = calibrated(answer, adapter.manifest.calibration)
            else:
                answers[i] = outcome
        return Answered(adapter, answers, completions)

    async def talk(self, origin: Origin, body: OpenAIBody) -> Talk:
        """
        Answer an OpenAI request by the engine's own handlers; it has begun when this returns.

        A plain chat with an adapter is answered as the adapter's task.
        """
        self._check_open()
        self._check_characters(body.text_field, body.num_characters)
        body.check()
        bare = body.model == self.backbone.name
        adapter = None if bare else await self._fitting(origin, body.model)
        if self.engine.openai is None:
            raise NotServed("OpenAI's routes need GALENIC_ENGINE=vllm, this server has another")
        clinical = None
        if adapter is not None and isinstance(body, ChatBody) and body.is_plain:
            clinical = Clinical.of(adapter, body)
        call = self._call(origin, body, adapter, clinical)
        try:
            reply = await self.engine.openai.answer(body.api, call)
        except TooLong:
            self._spend(origin.tenant, call.num_prompt_tokens)
            raise
        return Talk(adapter, call, clinical, reply)

    async def resolve(self, tenant: str, name: str) -> Resolved:
        """Resolve an alias, ``name@version`` or name of *tenant*; its own come before shared."""
        if (known := self._resolved.recall((tenant, name))) is not None:
            return known
        return await run_sync(
            self._resolved.get, (tenant, name), lambda: self._names.resolve(tenant, name)
        )

    def _heard(self, changes: Sequence[Change] | None) -> None:
        """Forget names whose meaning may have changed, for their owners and for borrowers."""
        owners = {change.tenant for change in changes or () if change.kind in MEANING}
        if changes is None or owners & {"", SHARED}:
            self._resolved.forget()
        elif owners:
            self._resolved.forget(lambda key: not owners.isdisjoint(_owners(key)))

    # Steps

    def _check_open(self) -> None:
        if not self._is_open():
            raise Unavailable("the engine is loading the backbone")

    async def _fitting(self, origin: Origin, name: str) -> Resolved:
        """
        Resolve *name* for this request. Raises `BadInput` if the adapter does not fit this server.

        The store outlives backbone and metaprompt, so it may hold adapters of an earlier server.
        """
        adapter = (await self.resolve(origin.tenant, name)).for_request(origin.request_id)
        if problem := self.fit.misfit(adapter.manifest):
            raise BadInput("adapter", f"{adapter.ref} {problem}")
        return adapter

    async def _requests(
        self, origin: Origin, adapter: Resolved, task: Task[Any, Any], ask: Ask
    ) -> tuple[dict[int, Request], dict[int, TooLong]]:
        """Make a request of each document; returns them, and the errors of those too long."""
        chats: dict[int, tuple[Message, ...]] = {}
        requests: dict[int, Request] = {}
        errors: dict[int, TooLong] = {}
        for i, fields in ask.documents.items():
            messages = task.render(fields)
            try:
                num_characters = sum(len(message.content) for message in messages)
                self._check_characters(f"documents[{i}]", num_characters)
                chats[i] = messages
            except TooLong as error:
                errors[i] = error
        rendered = await self._encode(origin.tenant, list(chats.values()))
        nonce = _nonce()
        for i, ids in zip(chats, rendered, strict=True):
            fields = ask.documents[i]
            constraint = task.constraint(fields)
            request = Request(
                f"{origin.request_id}-{nonce}-{i}",
                origin.tenant,
                ids,
                Sampling(
                    ask.max_tokens or task.max_tokens(fields),
                    with_logprobs=constraint is not None,
                ),
                adapter.digest,
                constraint,
                text_field=f"documents[{i}]",
            )
            try:
                self.engine.check(request)
                requests[i] = request
            except TooLong as error:
                self._spend(origin.tenant, len(ids))
                errors[i] = error
        return requests, errors

    def _check_characters(self, field: str, num_characters: int) -> None:
        """Raise `TooLong` for what the context cannot hold, before it is made tokens of."""
        num_tokens = self.engine.config.context_tokens
        if num_characters > num_tokens * CHARACTERS_OF_TOKEN:
            problem = f"has {num_characters:,} characters; the context holds {num_tokens:,} tokens"
            raise TooLong(field, problem)

    def _call(
        self,
        origin: Origin,
        body: OpenAIBody,
        adapter: Resolved | None,
        clinical: Clinical | None,
    ) -> Call:
        fields = body.fields()
        if clinical is not None:
            fields = {"max_tokens": clinical.max_tokens} | fields
            fields["messages"] = [asdict(message) for message in clinical.messages]
        is_silent = fields.get("max_tokens") == 0
        return Call(
            f"{origin.request_id}-{_nonce()}",
            origin.tenant,
            str(adapter.ref) if adapter else self.backbone.name,
            fields | ({"max_tokens": 1} if is_silent else {}),
            body.text_field,
            adapter.digest if adapter else None,
            is_task=clinical is not None,
            constraint=clinical.constraint if clinical else None,
            with_logprobs=clinical is not None and clinical.constraint is not None,
            is_silent=is_silent,
        )

    async def _encode(self, tenant: str, chats: list[tuple[Message, ...]]) -> list[list[int]]:
        def encode() -> list[list[int]]:
            return [chat.encode(self.engine.tokenizer, messages) for messages in chats]

        return await self._tokenizing.run(tenant, encode)

    async def _complete_all(
        self, requests: Mapping[int, Request]
    ) -> dict[int, Completion | GalenicError]:
        """Complete all requests concurrently; if the engine fails, the others are aborted."""
        try:
            async with asyncio.TaskGroup() as group:
                running = {i: group.create_task(self._outcome(r)) for i, r in requests.items()}
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return {i: task.result() for i, task in running.items()}

    async def _outcome(self, request: Request) -> Completion | GalenicError:
        """Complete a request; an error that is this document's alone is returned."""
        try:
            return await complete(self.engine, request)
        except (BadInput, Quarantined) as error:
            return error


def _owners(key: tuple[str, str]) -> tuple[str, str]:
    """Return the tenants whose changes may alter the meaning of a name."""
    tenant, text = key
    return tenant, text.partition("/")[0]


def _nonce() -> str:
    """Make engine ids unique: callers may send two requests under one id."""
    return secrets.token_hex(4)


def _task_of(adapter: Resolved, wanted: TaskName) -> Task[Any, Any]:
    manifest = adapter.manifest
    if manifest.task != wanted:
        raise WrongTask(f"adapter {adapter.ref} is for {manifest.task}, this route for {wanted}")
    return make_task(manifest.task, manifest.labels)
