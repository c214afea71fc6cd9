"""
The contract of engines, whichever runs underneath.

A request is a text of token ids and, optionally, an adapter named by its digest. The engine keeps
the adapter resident while the request runs, puts its prompt before the text, scales the text's
activations, and keeps tenants' caches apart. Nothing of the prompt shows in any output.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, Self

from galenic_adapters.factor import Composed
from galenic_adapters.tasks.base import Choice, Completion, Constraint
from galenic_adapters.tasks.confidence import line_logprobs


@dataclass(frozen=True, slots=True)
class Sampling:
    """
    Sets how tokens are sampled; greedy by default. Units are those of the OpenAI API.

    ignore_end: continue past the end token up to *max_tokens*, to measure equal work.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    with_logprobs: bool = False
    ignore_end: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """
    Describes one generation.

    tenant: whose cache the request may share.   text_ids: token ids of the backbone's vocabulary.
    adapter: a digest, or None for the bare backbone.   text_field: the caller's name for the text.
    """

    id: str
    tenant: str
    text_ids: Sequence[int]
    sampling: Sampling
    adapter: str | None = None
    constraint: Constraint | None = None
    text_field: str = "text"


@dataclass(frozen=True, slots=True)
class Delta:
    """
    Holds the output since the last one; *finish* is ``stop`` or ``length`` on the last only.

    logprobs: each token's text and log-probability under the constraint, if asked for.
    """

    text: str
    num_tokens: int
    finish: str | None = None
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    logprobs: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Holds counters since the server's start (kept over engine restarts), and residency."""

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
    Configures an engine.

    backbone: a local folder in Hugging Face layout.   dtype: ``float32`` or ``bfloat16``.
    num_slots: adapters resident at once; None for what memory allows.
    places: where adapters may scale activations, of `factor.PLACES`. Each slot stores a number for
    each layer and width of each place, and each token of a step reads as many.
    prompt_bytes: host memory for the keys and values of all residents' prompts; None for what
    memory allows.
    context_tokens: prompt, text and answer together.   secret: key that separates tenants' caches.
    tool_parser: vLLM's name for the format of this backbone's tool calls.
    silent_seconds: an engine that answers nothing for so long takes no requests, and is restarted
    after three times as long.
    """

    backbone: str
    secret: bytes
    dtype: str = "bfloat16"
    num_slots: int | None = None
    places: tuple[str, ...] = ("o", "f")
    prompt_bytes: int | None = None
    context_tokens: int = 4096
    enforce_eager: bool = False
    tensor_parallel_size: int = 1
    tool_parser: str = "hermes"
    silent_seconds: float = 15.0
    options: dict[str, Any] = field(default_factory=dict)  # passed on to vLLM's engine arguments


AdaptersOf = Callable[[Sequence[str]], Mapping[str, Composed]]
"""Fetches adapters by digest; those that do not exist are left out. May block."""


@dataclass(frozen=True, slots=True)
class Work:
    """
    Describes what an engine is about to do for a tenant.

    max_tokens: the most tokens of all its answers together.   how: all other parameters as text, so
    that equal requests can be recognized.   num_answers: answers that are generated side by side.
    """

    tenant: str
    adapter: str | None
    text_ids: Sequence[int]
    max_tokens: int
    how: str
    num_answers: int = 1

    @classmethod
    def of(cls, request: Request) -> Self:
        asked = repr((request.sampling, request.constraint))
        max_tokens = request.sampling.max_tokens
        return cls(request.tenant, request.adapter, request.text_ids, max_tokens, asked)


class Pass(Protocol):
    """Handle of an admitted request: its priority, and a callback for the tokens it generates."""

    @property
    def priority(self) -> int:
        """Return the priority; lower goes first."""

    def count(self, num_tokens: int) -> None:
        """Count tokens that were generated, as soon as they are."""


class Gate(Protocol):
    """Admits requests to an engine; each may have to wait for its turn."""

    def enter(self, work: Work) -> AbstractAsyncContextManager[Pass]:
        """
        Wait for admission, and hold it while the engine works; `EngineDied` passes through it.

        Raises `LimitReached` and `Quarantined`.
        """


class AnyTime:
    """The pass of an open gate."""

    priority = 0

    def count(self, num_tokens: int) -> None:
        pass


class OpenGate:
    """A `Gate` for an engine that one caller has for itself."""

    @asynccontextmanager
    async def enter(self, work: Work) -> AsyncIterator[Pass]:
        yield AnyTime()


class Api(StrEnum):
    """Names the APIs of OpenAI by the last part of their path."""

    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    RESPONSES = "responses"


@dataclass(eq=False, slots=True)
class Call:
    """
    Holds a checked request of an OpenAI client, with its output and its token counts so far.

    model: the model's name in the reply.   adapter: its digest, or None for the bare backbone.
    body: the request's fields; *text_field* is the one with the text.
    is_task: the messages are a task's, to be rendered as in training and answered under
    *constraint*, with the tokens' probabilities if *with_logprobs*.
    is_silent: an answer of no tokens was asked for; one token is generated and not shown.
    """

    id: str
    tenant: str
    model: str
    body: Mapping[str, Any]
    text_field: str
    adapter: str | None = None
    is_task: bool = False
    constraint: Constraint | None = None
    with_logprobs: bool = False
    is_silent: bool = False
    text: str = ""
    finish: str | None = None
    logprobs: list[tuple[str, float]] = field(default_factory=list)
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    num_cached_tokens: int = 0
    failure: Exception | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def completion(self) -> Completion:
        """Return the output; texts of several answers are concatenated."""
        counts = (self.num_prompt_tokens, self.num_tokens, self.num_cached_tokens)
        return Completion(self.text, self.finish or "length", *counts, line_logprobs(self.logprobs))


OpenAIReply = dict[str, Any] | AsyncGenerator[str]
"""OpenAI's reply object, or server-sent events; closing these aborts the request."""


class OpenAI(Protocol):
    """The OpenAI API over an engine; nothing of an adapter's prompt shows in its replies."""

    async def answer(self, api: Api, call: Call) -> OpenAIReply:
        """
        Answer *call*; returns once there is output, so that refusals are errors, not streams.

        Raises what `Engine.generate` raises, also from the events.
        """


class Engine(Protocol):
    """Serves one resident backbone; every request may use another adapter."""

    @property
    def config(self) -> EngineConfig: ...

    @property
    def tokenizer(self) -> Any:
        """Return the backbone's Hugging Face tokenizer, with its true vocabulary."""

    @property
    def openai(self) -> OpenAI | None:
        """Return OpenAI's API, if this engine has it."""

    async def start(self) -> None:
        """Load the backbone; returns once it has answered a request."""

    async def stop(self) -> None: ...

    async def healthy(self) -> bool:
        """Tell whether a request sent now would be answered."""

    def check(self, request: Request) -> None:
        """
        Raise the errors that `generate` raises before it runs anything.

        The prompt of an adapter that is not resident is not counted yet.
        """

    def generate(self, request: Request) -> AsyncIterator[Delta]:
        """
        Yield the answer piece by piece; closing the iterator aborts the request.

        Raises `BadInput` (an id outside the vocabulary, a constraint that does not compile),
        `TooLong`, `NotFound` (the adapter), `BadFactor` (an adapter that this engine cannot hold),
        `Unavailable`, `EngineDied` (it crashed meanwhile).
        """

    async def seat(self, digests: Sequence[str], *, may_evict: bool = True) -> bool:
        """
        Make these adapters resident; returns whether there was room for all that exist.

        Adapters without room wait for their first request; so do those that this engine cannot
        hold, and most input prompts of a large batch, since each needs a pass of the backbone.
        """

    async def evict(self, digest: str) -> None:
        """Evict a deleted adapter; its slot is free once the requests that hold it are done."""

    async def stats(self) -> EngineStats: ...


WARM_UP = Request(
    "warm-up", "", [0], Sampling(max_tokens=1, with_logprobs=True), constraint=Choice(("ok",))
)
"""Answered by an engine before it is ready, to compile what is otherwise compiled on first use."""


async def complete(engine: Engine, request: Request) -> Completion:
    """Generate the whole answer."""
    text, num_tokens, last = "", 0, None
    logprobs: list[tuple[str, float]] = []
    async for last in engine.generate(request):
        text += last.text
        num_tokens += last.num_tokens
        logprobs += last.logprobs
    assert last is not None, "an engine says something"
    assert last.finish is not None, "an engine ends with a finish reason"
    counts = (last.num_prompt_tokens, num_tokens, last.num_cached_tokens)
    return Completion(text, last.finish, *counts, line_logprobs(logprobs))
