"""
What the service asks of an engine, whichever runs underneath.

A request is a prompt of text token ids and, perhaps, an adapter named by its digest. The engine
holds that adapter in a slot while the request runs, puts its virtual prompt before the text, and
keeps tenants' caches apart. Virtual token ids never leave the engine.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, Self

from galenic_adapters.errors import NotFound
from galenic_adapters.factor import Factor, Metaprompt
from galenic_adapters.tasks.base import Choice, Completion, Constraint


@dataclass(frozen=True, slots=True)
class Sampling:
    """
    How to pick tokens; greedy by default. Units as in the OpenAI API.

    ignore_end: go on to *max_tokens* past the end token, to measure equal work.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    with_logprob: bool = False
    ignore_end: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """
    One generation: *text_ids* are ids of the backbone's vocabulary; *adapter* is a digest, or none
    for the bare backbone; *tenant* is whose cache the request may share.
    """

    id: str
    tenant: str
    text_ids: Sequence[int]
    sampling: Sampling
    adapter: str | None = None
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """What came since the last one; *finish* is ``stop`` or ``length`` on the last, else none."""

    text: str
    num_tokens: int
    finish: str | None = None
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    logprob: float | None = None


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since the server's start (an engine restart keeps them), and what is resident."""

    resident_adapters: int = 0
    num_slots: int = 0
    slot_loads: int = 0
    slot_evictions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """
    backbone: a local folder in Hugging Face layout.   dtype: ``float32`` or ``bfloat16``.
    num_slots: adapters resident at once.   max_rank: the highest rank a slot can hold.
    num_components: ranks of all residents together; none for four a slot, on average. An adapter
    takes a row of P + D numbers for each rank, and 8 bytes.
    context_tokens: prompt, text and answer together.   secret: keys the tenants' caches apart.
    tool_parser: how this backbone writes calls of tools, in vLLM's name for it.
    """

    backbone: str
    metaprompt: Metaprompt
    secret: bytes
    dtype: str = "bfloat16"
    num_slots: int = 4096
    max_rank: int = 16
    num_components: int | None = None
    context_tokens: int = 4096
    enforce_eager: bool = False
    tensor_parallel_size: int = 1
    tool_parser: str = "hermes"
    options: dict[str, Any] = field(default_factory=dict)  # passed on to vLLM's engine arguments


FactorOf = Callable[[str], Factor]
"""Where an engine fetches the factor of a digest that has no slot; raises `NotFound`. May block."""

FactorsOf = Callable[[Sequence[str]], Mapping[str, Factor]]
"""The same for many, in one question; those that are not there are left out. May block."""


def one_by_one(factor_of: FactorOf) -> FactorsOf:
    """Where nobody knows a better way."""

    def factors_of(digests: Sequence[str]) -> dict[str, Factor]:
        found = {}
        for digest in digests:
            with suppress(NotFound):
                found[digest] = factor_of(digest)
        return found

    return factors_of


@dataclass(frozen=True, slots=True)
class Work:
    """
    What an engine is about to do for a tenant.

    max_tokens: the most that it may say, all its answers together.   how: everything else that is
    asked, as one text, so that the same request is known again.
    """

    tenant: str
    adapter: str | None
    text_ids: Sequence[int]
    max_tokens: int
    how: str

    @classmethod
    def of(cls, request: Request) -> Self:
        asked = repr((request.sampling, request.constraint))
        max_tokens = request.sampling.max_tokens
        return cls(request.tenant, request.adapter, request.text_ids, max_tokens, asked)


class Pass(Protocol):
    """Of one who was let in: its place among those the engine holds, and what it has said."""

    @property
    def priority(self) -> int:
        """Who has the lower one goes first."""

    def said(self, num_tokens: int) -> None: ...


class Gate(Protocol):
    """An engine's requests enter here one by one; each may have to wait until it is its turn."""

    def enter(self, work: Work) -> AbstractAsyncContextManager[Pass]:
        """
        Held as long as the engine works. `EngineDied` is raised through it.

        Raises `LimitReached` and `Quarantined`.
        """


class AnyTime:
    """The pass of an open gate."""

    priority = 0

    def said(self, num_tokens: int) -> None:
        pass


class OpenGate:
    """A `Gate` for an engine that one caller has for itself."""

    @asynccontextmanager
    async def enter(self, work: Work) -> AsyncIterator[Pass]:
        yield AnyTime()


class Api(StrEnum):
    """What OpenAI's clients ask, by the last part of the address."""

    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    RESPONSES = "responses"


@dataclass(eq=False, slots=True)
class Call:
    """
    One request of an OpenAI client, checked, and what it has cost so far.

    model: how the reply names what answers.   adapter: its digest, or none for the bare backbone.
    body: the request's own fields; *text_field* is the one that holds the text.
    is_task: its messages are a task's, to be rendered as in training and answered under
    *constraint*, with the answer's probability if *with_logprob*.
    is_silent: its answer of one token is made and not shown.
    """

    id: str
    tenant: str
    model: str
    body: Mapping[str, Any]
    text_field: str
    adapter: str | None = None
    is_task: bool = False
    constraint: Constraint | None = None
    with_logprob: bool = False
    is_silent: bool = False
    text: str = ""
    finish: str | None = None
    logprob: float | None = None
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    num_cached_tokens: int = 0
    failure: Exception | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def completion(self) -> Completion:
        """What was said; of several answers, all of them run together."""
        counts = (self.num_prompt_tokens, self.num_tokens, self.num_cached_tokens)
        return Completion(self.text, self.finish or "length", *counts, self.logprob)


OpenAIReply = dict[str, Any] | AsyncGenerator[str]
"""An object of OpenAI's, or server-sent events as they come; closing them aborts the request."""


class OpenAI(Protocol):
    """The OpenAI API over an engine; an adapter's virtual tokens show in nothing that it says."""

    async def answer(self, api: Api, call: Call) -> OpenAIReply:
        """
        Returns once something has been said, so what is refused is an error and no stream.

        Raises what `Engine.generate` raises, also from the events.
        """


class Engine(Protocol):
    """One resident backbone; every request may bring another adapter."""

    @property
    def config(self) -> EngineConfig: ...

    @property
    def tokenizer(self) -> Any:
        """The backbone's Hugging Face tokenizer, with the backbone's true vocabulary."""

    @property
    def openai(self) -> OpenAI | None:
        """OpenAI's API, where this engine has it."""

    async def start(self) -> None:
        """Load the backbone; returns once it has really answered a request."""

    async def stop(self) -> None: ...

    async def healthy(self) -> bool:
        """Whether a request sent now would be answered."""

    def check(self, request: Request, field: str = "text") -> None:
        """Raise what `generate` refuses before it runs anything; *field* names the text."""

    def generate(self, request: Request) -> AsyncIterator[Delta]:
        """
        The answer, piece by piece; closing the iterator aborts the request.

        Raises `BadInput` (an id outside the vocabulary, a constraint that does not compile),
        `TooLong`, `Unsupported` (what this engine cannot do), `NotFound` (the adapter),
        `Unavailable`, `EngineDied` where it died meanwhile.
        """

    async def seat(self, digests: Sequence[str]) -> None:
        """Make those of these adapters resident that exist, now and in one pass."""

    async def take(self, factors: Mapping[str, Factor], *, may_evict: bool = True) -> bool:
        """
        Make these adapters resident, whose factors are at hand; whether there was room for all.

        The others are left for their first request, as are those that fit no slot.
        """

    async def warm(self, tenant: str, digest: str) -> None:
        """Run the adapter's prompt through, so that *tenant*'s next request finds it cached."""

    async def evict(self, digest: str) -> None:
        """Forget a deleted adapter: its slot is free once the requests that hold it are done."""

    async def stats(self) -> EngineStats: ...


WARM_UP = Request(
    "warm-up", "", [0], Sampling(max_tokens=1, with_logprob=True), constraint=Choice(("ok",))
)
"""What an engine answers before it is ready: it touches what is otherwise compiled on first use."""


async def complete(engine: Engine, request: Request) -> Completion:
    """The whole answer at once."""
    text, num_tokens, last = "", 0, None
    async for last in engine.generate(request):
        text += last.text
        num_tokens += last.num_tokens
    assert last is not None, "an engine says something"
    assert last.finish is not None, "an engine ends with a finish reason"
    return Completion(
        text, last.finish, last.num_prompt_tokens, num_tokens, last.num_cached_tokens, last.logprob
    )
