"""
The engine on vLLM. A request holds its adapter's slot: scales are read from tables inside the
layers, and the prompt's keys and values are written before the text's.

It tells the story of a request; `Core` runs vLLM's process, `WorkerResidents` keeps adapters in it.
"""

import hashlib
import hmac
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import Any

from galenic_server.engine.vllm import launch  # isort: skip  # before vLLM
import torch
from transformers import AutoTokenizer
from vllm import RequestOutput, SamplingParams
from vllm.inputs.engine import TokensInput, tokens_input
from vllm.v1.engine.async_llm import AsyncLLM

from galenic_adapters.errors import BadInput, Unavailable
from galenic_server.engine.checks import fit
from galenic_server.engine.contract import (
    WARM_UP,
    AdaptersOf,
    Api,
    Call,
    Delta,
    EngineConfig,
    EngineStats,
    Gate,
    OpenAI,
    OpenAIReply,
    Request,
    Work,
)
from galenic_server.engine.slots import Placement
from galenic_server.engine.vllm.connector import put_before
from galenic_server.engine.vllm.core import Core
from galenic_server.engine.vllm.openai_client import PromptingClient
from galenic_server.engine.vllm.openai_surface import Surface
from galenic_server.engine.vllm.residents import WorkerResidents
from galenic_server.engine.vllm.sampling import logprobs_of, sampling_params
from galenic_server.engine.vllm.scales import ScaleLayout
from galenic_server.engine.vllm.steps import Seat, version_of
from galenic_server.engine.vllm.trial import Trials

BARE = Placement(slot=0, prompt=None)


class VllmEngine:
    """
    Implements `Engine`.

    Its parts may be wrapped between requests: *gate* admits them, *core* generates, *residents*
    holds their adapters.
    """

    def __init__(self, config: EngineConfig, adapters_of: AdaptersOf, gate: Gate) -> None:
        self._config, self._bounds, capacity = fit(config)
        num_slots = self._config.num_slots
        assert num_slots is not None, "fit() chose a number"
        layout = ScaleLayout(config.places, num_slots + 1)  # the first is nobody's
        dtype: torch.dtype = getattr(torch, config.dtype)
        launch.check_memory(self._config, layout.num_bytes(capacity.scales, dtype))
        self.gate = gate
        self.core = Core(
            partial(launch.make_prompted, self._config, layout),
            self._prepare,
            silent_seconds=config.silent_seconds,
        )
        self.residents = WorkerResidents(
            num_slots, capacity, dtype, adapters_of=adapters_of, call=self.core.call
        )
        self._tokenizer = AutoTokenizer.from_pretrained(config.backbone)
        self._trials = Trials(self._tokenizer, self._bounds.vocab_size)
        self._surface: Surface | None = None
        self._num_prefix_queries = 0
        self._num_prefix_hits = 0

    @property
    def config(self) -> EngineConfig:
        return self._config

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    @property
    def openai(self) -> OpenAI:
        return self

    async def start(self) -> None:
        try:
            await self.core.start()
        except BaseException:
            await self._trials.stop()
            raise

    async def stop(self) -> None:
        self._surface = None  # it holds on to the core
        await self.core.stop()
        await self._trials.stop()

    async def healthy(self) -> bool:
        return self.core.is_healthy

    async def _prepare(self, llm: AsyncLLM) -> None:
        """Reload all residents into a fresh core, and let it answer a request."""
        await self.residents.refill()
        async for _ in self._answer(WARM_UP):
            pass
        client = PromptingClient(llm, self.run, self._bounds)
        self._surface = Surface(client, tool_parser=self._config.tool_parser)

    def check(self, request: Request) -> None:
        place = self.residents.find(request.adapter) if request.adapter else None
        self._bounds.check(request, _num_positions(place or BARE))

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        self.check(request)
        if not self.core.is_healthy:
            raise Unavailable("the engine is starting")
        async with aclosing(self._answer(request)) as deltas:
            async for delta in deltas:
                yield delta

    async def answer(self, api: Api, call: Call) -> OpenAIReply:
        if self._surface is None or not self.core.is_healthy:
            raise Unavailable("the engine is starting")
        return await self._surface.answer(api, call)

    async def _answer(self, request: Request) -> AsyncGenerator[Delta]:
        params = sampling_params(request.sampling, request.constraint)
        # A constraint holds from the first token, also where the backbone would reason before.
        work, field = Work.of(request), request.text_field
        outputs = self.run(request.id, work, params, field=field, reasoning_ended=True)
        async with aclosing(outputs):
            async for output in outputs:
                yield _delta(request, output)

    async def run(
        self,
        id_: str,
        work: Work,
        params: SamplingParams,
        *,
        field: str,
        may_shorten: bool = False,
        **more: Any,
    ) -> AsyncGenerator[RequestOutput]:
        """
        Yield vLLM's outputs for a text with the adapter's prompt before it, and hide the prompt.

        field: the caller's name for the text.   may_shorten: shorten the answer to fit the context.
        """
        await self._trials.check(work.tenant, params.structured_outputs)
        async with AsyncExitStack() as held:
            turn = await held.enter_async_context(self.gate.enter(work))
            place = BARE
            if work.adapter is not None:
                place = await held.enter_async_context(self.residents.hold(work.adapter))
            num_positions = _num_positions(place)
            num_text = len(work.text_ids)
            assert params.max_tokens is not None, "it was filled in"
            if may_shorten:
                room = self._bounds.room(num_positions, num_text)
                params.max_tokens = max(1, min(params.max_tokens, room))
            self._bounds.check_length(num_positions, num_text, params.max_tokens, field)
            prompt = self._prompt(work, place, params)
            more["priority"] = turn.priority
            outputs = await held.enter_async_context(
                aclosing(self.core.generate(id_, prompt, params, **more))
            )
            async for output in outputs:
                turn.count(sum(len(answer.token_ids) for answer in output.outputs))
                _check_end(output, is_bound=params.structured_outputs is not None)
                shown = _without_prompt(output, num_positions)
                if output.finished:
                    self._num_prefix_queries += num_text
                    self._num_prefix_hits += shown.num_cached_tokens or 0
                yield shown

    def _prompt(self, work: Work, place: Placement, params: SamplingParams) -> TokensInput:
        """Make vLLM's input, and name the adapter's slot and prompt in *params*."""
        ids = list(work.text_ids)
        params.extra_args = None  # nobody else's
        if self._config.places and work.adapter is not None:
            params.extra_args = Seat(place.slot, version_of(work.adapter)).extra_args
        if place.prompt is not None:
            ids = put_before(ids, place.prompt, params)
        salt = cache_salt(self._config.secret, work.tenant, work.adapter)
        return tokens_input(ids, cache_salt=salt)

    async def seat(self, digests: Sequence[str], *, may_evict: bool = True) -> bool:
        return await self.residents.seat(digests, may_evict=may_evict)

    async def evict(self, digest: str) -> None:
        self.residents.evict(digest)

    async def stats(self) -> EngineStats:
        slots = self.residents.slots
        return EngineStats(
            resident_adapters=slots.num_seated,
            num_slots=self._config.num_slots or 0,
            slot_loads=slots.num_loads,
            slot_evictions=slots.num_evictions,
            prefix_queries=self._num_prefix_queries,
            prefix_hits=self._num_prefix_hits,
            restarts=self.core.num_restarts,
        )


def cache_salt(secret: bytes, tenant: str, adapter: str | None) -> str:
    """Return the key that separates tenants and adapters in the prefix cache."""
    owner = f"{len(tenant)}:{tenant}:{adapter or 'bare'}"
    return hmac.new(secret, owner.encode(), hashlib.sha256).hexdigest()


def _num_positions(place: Placement) -> int:
    return place.prompt.num_positions if place.prompt else 0


def _delta(request: Request, output: RequestOutput) -> Delta:
    answer = output.outputs[0]
    return Delta(
        text=answer.text,
        num_tokens=len(answer.token_ids),
        finish=answer.finish_reason,
        num_prompt_tokens=len(request.text_ids),
        num_cached_tokens=output.num_cached_tokens or 0,
        logprobs=logprobs_of(answer) if request.sampling.with_logprobs else (),
    )


def _check_end(output: RequestOutput, *, is_bound: bool) -> None:
    """
    Raise an error if vLLM gave up on a request.

    That of a constrained request may be a grammar that allows no token, such as a schema that is
    only itself.
    """
    for reason in {answer.finish_reason for answer in output.outputs} - {None, "stop", "length"}:
        if reason == "error" and is_bound:
            raise BadInput("constraint", "leads to where no token is allowed")
        raise Unavailable(f"the engine ended this request: {reason}")


def _without_prompt(output: RequestOutput, num_positions: int) -> RequestOutput:
    """Remove the prompt's positions from *output*."""
    if not num_positions:
        return output
    output.num_cached_tokens = max(0, (output.num_cached_tokens or 0) - num_positions)
    output.num_cache_creation_tokens = None
    if output.prompt_token_ids is not None:
        output.prompt_token_ids = output.prompt_token_ids[num_positions:]
        if probabilities := output.prompt_logprobs:  # of every id, or of those that were computed
            after_first = len(probabilities) - len(output.prompt_token_ids) + 1
            output.prompt_logprobs = [None, *probabilities[after_first:]]
    return output
