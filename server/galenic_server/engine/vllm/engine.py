"""
The engine on vLLM. A request holds its adapter's slot: scales are read from tables inside the
layers, and the prompt's keys and values are written before the text's.

vLLM's engine core is a process of its own. When it crashes or hangs, every request in flight ends
with `Unavailable`, and a supervisor starts another core and reloads every resident before the
engine is healthy again.
"""

import asyncio
import hashlib
import hmac
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import asdict, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

# Read by vLLM when it is imported, so set before.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_DO_NOT_TRACK", "1")
# Nobody else's: no line of vLLM's quotes what it was asked, in its own processes neither.
os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(Path(__file__).parent / "vllm_logging.json")

import torch
from transformers import AutoConfig, AutoTokenizer
from vllm import AsyncEngineArgs, RequestOutput, SamplingParams
from vllm.config import KVTransferConfig
from vllm.inputs.engine import TokensInput, tokens_input
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from galenic_adapters.errors import BadInput, EngineDied, NotFound, Unavailable
from galenic_adapters.factor import Composed
from galenic_server.engine.capacity import memory_bytes
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
from galenic_server.engine.slots import Place, Seated, Slots
from galenic_server.engine.vllm.compat import RequestRefused
from galenic_server.engine.vllm.connector import put_before
from galenic_server.engine.vllm.loader import Loader, Send
from galenic_server.engine.vllm.openai_client import PromptingClient
from galenic_server.engine.vllm.openai_surface import Surface
from galenic_server.engine.vllm.plugin import PLUGIN, SCALES_KEY
from galenic_server.engine.vllm.sampling import sampling_params
from galenic_server.engine.vllm.scales import ScaleLayout
from galenic_server.engine.vllm.steps import Seat, version_of
from galenic_server.engine.vllm.trial import Trials
from galenic_server.engine.vllm.watchdog import watched

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
FIRST_BACKOFF_SECONDS = 1.0
LAST_BACKOFF_SECONDS = 60.0
RESTART_SECONDS = 1800.0  # what was compiled at the first start is on the disk by now
FETCHED_AT_ONCE = 100  # adapters on their way from the store, in this process
MOST_PASSES = 4  # of the backbone through prompts that nobody has asked for yet, at a time
CPU_ARGUMENTS: dict[str, Any] = {
    "kv_cache_memory_bytes": 1 << 30,  # 46,000 tokens of SmolLM2; vLLM's own is nearly all memory
    "block_size": 32,  # of vLLM's default of 128, the cache would keep no short text
    "max_num_batched_tokens": 256,  # of 4,096, each token said would wait a second for prompts read
}
BARE = Place(slot=0, prompt=None)


class VllmEngine:
    """Implements `Engine`."""

    def __init__(self, config: EngineConfig, adapters_of: AdaptersOf, gate: Gate) -> None:
        self._config, self._bounds, self._capacity = fit(config)
        self._adapters_of = adapters_of
        self._gate = gate
        num_slots = self._config.num_slots
        assert num_slots is not None, "fit() chose a number"
        self._layout = ScaleLayout(config.places, num_slots + 1)  # the first is nobody's
        dtype: torch.dtype = getattr(torch, config.dtype)
        _check_memory(self._config, self._layout.num_bytes(self._capacity.scales, dtype))
        self._tokenizer = AutoTokenizer.from_pretrained(config.backbone)
        self._loader = Loader(
            self._call, self._capacity.scales, dtype, shelf=lambda: self._slots.prompts
        )
        self._slots = Slots(
            num_slots,
            self._capacity.prompt_bytes,
            fetch=self._fetch,
            load=self._loader.load,
            prompt_of=self._capacity.prompt_of,
        )
        self._trials = Trials(self._tokenizer, self._bounds.vocab_size)
        self._llm: AsyncLLM | None = None
        self._surface: Surface | None = None
        self._making: asyncio.Task[AsyncLLM] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._is_ready = False
        self._stats = EngineStats(num_slots=num_slots)

    @property
    def config(self) -> EngineConfig:
        return self._config

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    @property
    def openai(self) -> OpenAI:
        return self

    # Life

    async def start(self) -> None:
        try:
            await self._start_core()
        except BaseException:
            await self._stop_core()
            await self._trials.stop()
            raise
        self._supervisor = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervisor
        await self._stop_core()
        await self._trials.stop()

    async def healthy(self) -> bool:
        return self._is_ready and self._llm is not None and not self._llm.errored

    async def _start_core(self) -> None:
        """Start a core, reload all residents, and let it answer a request."""
        making = asyncio.to_thread(_make_llm, self._config, self._layout)
        self._making = asyncio.create_task(making)
        self._llm = await asyncio.shield(self._making)
        async with self._loader.filling() as send:
            if not all(await self._call("prepare")):
                raise RuntimeError("this vLLM's model runner is not known, start without places")
            await self._put_back(send)
        async for _ in self._answer(WARM_UP):
            pass
        self._surface = Surface(
            PromptingClient(self._llm, self.run, self._bounds),
            tool_parser=self._config.tool_parser,
        )
        self._is_ready = True

    async def _stop_core(self) -> None:
        self._is_ready = False
        making, self._making, self._llm, self._surface = self._making, None, None, None
        if making is None:
            return
        await asyncio.wait({making})  # also for one whose start was given up midway
        if making.cancelled() or making.exception() is not None:
            return
        llm = making.result()
        if llm.output_handler is not None and not llm.output_processor.has_unfinished_requests():
            llm.output_handler.cancel()  # else it logs the end of its core as an error
        await asyncio.to_thread(llm.shutdown)

    async def _supervise(self) -> None:
        """Restart the core when it crashes, with a longer backoff after each short life."""
        backoff_seconds = FIRST_BACKOFF_SECONDS
        loop = asyncio.get_running_loop()
        while True:
            since = loop.time()
            async with watched(self._llm, self._config.silent_seconds):
                while await self.healthy():  # noqa: ASYNC110  # vLLM tells of a death by a flag
                    await asyncio.sleep(POLL_SECONDS)
            if loop.time() - since > LAST_BACKOFF_SECONDS:
                backoff_seconds = FIRST_BACKOFF_SECONDS
            self._stats = replace(self._stats, restarts=self._stats.restarts + 1)
            logger.error("engine core died, restart in %.0f s", backoff_seconds)
            try:
                await self._stop_core()
                await asyncio.sleep(backoff_seconds)
                async with asyncio.timeout(RESTART_SECONDS):  # a core may hang while it starts too
                    await self._start_core()
            except Exception:  # whatever stopped it, another attempt follows
                logger.exception("engine core did not start")
            backoff_seconds = min(2 * backoff_seconds, LAST_BACKOFF_SECONDS)

    # Requests

    def check(self, request: Request) -> None:
        place = self._slots.find(request.adapter) if request.adapter else None
        self._bounds.check(request, _num_positions(place or BARE))

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        self.check(request)
        if not await self.healthy():
            raise Unavailable("the engine is starting")
        async with aclosing(self._answer(request)) as deltas:
            async for delta in deltas:
                yield delta

    async def answer(self, api: Api, call: Call) -> OpenAIReply:
        if self._surface is None or not await self.healthy():
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
            turn = await held.enter_async_context(self._gate.enter(work))
            place = BARE
            if work.adapter is not None:
                place = await held.enter_async_context(self._slots.hold(work.adapter))
            num_positions = _num_positions(place)
            num_text = len(work.text_ids)
            assert params.max_tokens is not None, "it was filled in"
            if may_shorten:
                room = self._bounds.room(num_positions, num_text)
                params.max_tokens = max(1, min(params.max_tokens, room))
            self._bounds.check_length(num_positions, num_text, params.max_tokens, field)
            prompt = self._prompt(work, place, params)
            more["priority"] = turn.priority
            async with aclosing(self._run(id_, prompt, params, **more)) as outputs:
                async for output in outputs:
                    turn.said(sum(len(said.token_ids) for said in output.outputs))
                    _check_end(output, is_bound=params.structured_outputs is not None)
                    shown = _without_prompt(output, num_positions)
                    if output.finished:
                        self._count_prefix(num_text, shown.num_cached_tokens or 0)
                    yield shown

    def _prompt(self, work: Work, place: Place, params: SamplingParams) -> TokensInput:
        """Make vLLM's input, and name the adapter's slot and prompt in *params*."""
        ids = list(work.text_ids)
        params.extra_args = None  # nobody else's
        if self._config.places and work.adapter is not None:
            params.extra_args = Seat(place.slot, version_of(work.adapter)).extra_args
        if place.prompt is not None:
            ids = put_before(ids, place.prompt, params)
        return tokens_input(ids, cache_salt=self._cache_salt(work.tenant, work.adapter))

    async def _run(
        self, id_: str, prompt: TokensInput, params: SamplingParams, **more: Any
    ) -> AsyncGenerator[RequestOutput]:
        """Yield vLLM's outputs, and translate its errors into ours."""
        llm = self._llm
        if llm is None:
            raise Unavailable("the engine is starting")
        try:
            async with aclosing(llm.generate(prompt, params, id_, **more)) as outputs:
                async for output in outputs:
                    yield output
        except EngineDeadError as death:
            raise EngineDied("the engine died") from death
        except RequestRefused as refusal:  # its message may quote the request
            named = getattr(refusal, "parameter", None) or "structured_outputs"
            field = "constraint" if named.startswith("structured_outputs") else named
            raise BadInput(field, "is not taken by the engine") from refusal
        except EngineGenerateError as failure:
            raise Unavailable("the engine failed on this request") from failure

    def _cache_salt(self, tenant: str, adapter: str | None) -> str:
        """Separate tenants and adapters in the prefix cache, whatever slots they had."""
        owner = f"{len(tenant)}:{tenant}:{adapter or 'bare'}"
        return hmac.new(self._config.secret, owner.encode(), hashlib.sha256).hexdigest()

    def _count_prefix(self, num_tokens: int, num_cached: int) -> None:
        self._stats = replace(
            self._stats,
            prefix_queries=self._stats.prefix_queries + num_tokens,
            prefix_hits=self._stats.prefix_hits + num_cached,
        )

    # Adapters

    async def seat(self, digests: Sequence[str], *, may_evict: bool = True) -> bool:
        new = [digest for digest in digests if digest not in self._slots]
        for some in _parts(new):
            found = await asyncio.to_thread(self._fetch_fitting, some)
            if not await self._slots.take(self._at_hand(found), may_evict=may_evict):
                return False
        return True

    def _at_hand(self, adapters: Mapping[str, Composed]) -> dict[str, Composed]:
        """
        Return the adapters whose prompts need no pass of the backbone, and a few of the others.

        Passes for thousands of prompts would delay live requests.
        """
        new = dict.fromkeys(
            adapter.prompt_digest
            for adapter in adapters.values()
            if adapter.rows_PD is not None and adapter.prompt_digest not in self._slots.prompts
        )
        late = set(list(new)[MOST_PASSES:])
        return {
            digest: adapter
            for digest, adapter in adapters.items()
            if adapter.prompt_digest not in late
        }

    async def evict(self, digest: str) -> None:
        self._slots.evict(digest)

    async def stats(self) -> EngineStats:
        return replace(
            self._stats,
            resident_adapters=self._slots.num_seated,
            slot_loads=self._slots.num_loads,
            slot_evictions=self._slots.num_evictions,
        )

    async def _fetch(self, digest: str) -> Composed:
        return await asyncio.to_thread(self._fetch_one, digest)

    def _fetch_one(self, digest: str) -> Composed:
        found = self._adapters_of([digest])
        if digest not in found:
            raise NotFound(f"no adapter of digest {digest}")
        self._capacity.check(found[digest])
        return found[digest]

    def _fetch_fitting(self, digests: Sequence[str]) -> dict[str, Composed]:
        return self._capacity.fitting(self._adapters_of(digests))

    async def _put_back(self, send: Send) -> None:
        """Reload the residents of the previous core that still exist."""
        residents = self._slots.seated()
        for some in _parts(list(residents)):
            adapters = await asyncio.to_thread(self._fetch_fitting, some)
            for digest in set(some) - adapters.keys():
                self._slots.evict(digest)
            await send([Seated(digest, residents[digest], one) for digest, one in adapters.items()])

    async def _call(self, method: str, *args: Any) -> list[Any]:
        """Call the workers; raises `Unavailable` if the core dies, as vLLM would never answer."""
        llm = self._llm
        if llm is None:
            raise Unavailable("the engine is starting")
        call = asyncio.ensure_future(llm.collective_rpc(method, args=args))
        while not call.done():
            await asyncio.wait({call}, timeout=POLL_SECONDS)
            if llm.errored:
                call.cancel()
                raise Unavailable("the engine died")
        return call.result()


def _check_memory(config: EngineConfig, table_bytes: int) -> None:
    """Raise `BadInput` if tables of scales, or prompts, need more than half of the memory."""
    there = memory_bytes()
    device = there if current_platform.is_cpu() else current_platform.get_device_total_memory()
    for name, needed, available in (
        ("num_slots", table_bytes, device),
        ("prompt_bytes", config.prompt_bytes or 0, there),
    ):
        if needed > available / 2:
            held = f"{needed / 2**30:.1f} GiB, and may take half of {available / 2**30:.1f} GiB"
            raise BadInput(name, f"{getattr(config, name):,} needs {held}")


def _parts(digests: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(digests), FETCHED_AT_ONCE):
        yield digests[first : first + FETCHED_AT_ONCE]


def _make_llm(config: EngineConfig, layout: ScaleLayout) -> AsyncLLM:
    if PLUGIN not in entry_points(group="vllm.general_plugins").names:
        raise RuntimeError("vLLM does not find Galenic's plugin: install the package `galenic`")
    llm = make_vllm(
        config,
        scheduling_policy="priority",
        tokenizer_mode="hf",
        worker_extension_cls="galenic_server.engine.vllm.worker.AdapterWorker",
        kv_transfer_config=_connector(),
        additional_config={SCALES_KEY: asdict(layout)} if layout.places else {},
        # Free to put space between tokens, a small model does so to the end.
        structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True}
        | _reasoning_of(config.backbone),
    )
    # Here tensors are an upload's, and small; the workers have been given threads of their own.
    torch.set_num_threads(1)
    return llm


def _connector() -> KVTransferConfig:
    return KVTransferConfig(
        kv_connector="PromptConnector",
        kv_connector_module_path="galenic_server.engine.vllm.connector",
        kv_role="kv_producer",  # a consumer's blocks vLLM would be slow to free
        kv_load_failure_policy="fail",  # else placeholders were read as text
    )


def make_vllm(config: EngineConfig, **more: Any) -> AsyncLLM:
    """Make vLLM over *config*'s backbone with arguments for this machine, then those of *more*."""
    arguments: dict[str, Any] = {
        "model": config.backbone,
        "dtype": config.dtype,
        "max_model_len": config.context_tokens,
        "tensor_parallel_size": config.tensor_parallel_size,
        "enforce_eager": config.enforce_eager,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "enable_log_requests": False,
    }
    if current_platform.is_cpu():
        _share_the_cpu(config.tensor_parallel_size)
        arguments |= CPU_ARGUMENTS
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments | more | config.options))


def _reasoning_of(backbone: str) -> dict[str, str]:
    """Name vLLM's parser of the backbone's reasoning; constraints apply after its end."""
    is_harmony = AutoConfig.from_pretrained(backbone).model_type == "gpt_oss"
    return {"reasoning_parser": "openai_gptoss"} if is_harmony else {}


def _share_the_cpu(num_workers: int) -> None:
    """
    Leave a core to the server and bind no threads, on a single NUMA node; set variables are kept.

    vLLM would bind its threads to cores, and one busy core would delay all of them.
    """
    if Path("/sys/devices/system/node/node1").exists():
        return
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault(
        "OMP_NUM_THREADS", str(max(1, (torch.get_num_threads() - 1) // num_workers))
    )


def _num_positions(place: Place) -> int:
    return place.prompt.num_positions if place.prompt else 0


def _delta(request: Request, output: RequestOutput) -> Delta:
    said = output.outputs[0]
    return Delta(
        text=said.text,
        num_tokens=len(said.token_ids),
        finish=said.finish_reason,
        num_prompt_tokens=len(request.text_ids),
        num_cached_tokens=output.num_cached_tokens or 0,
        logprob=said.cumulative_logprob if request.sampling.with_logprob else None,
    )


def _check_end(output: RequestOutput, *, is_bound: bool) -> None:
    """
    Raise an error if vLLM gave up on a request.

    That of a constrained request may be a grammar that allows no token, such as a schema that is
    only itself.
    """
    for reason in {said.finish_reason for said in output.outputs} - {None, "stop", "length"}:
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
        if told := output.prompt_logprobs:  # of every id, or of those that were computed
            after_first = len(told) - len(output.prompt_token_ids) + 1
            output.prompt_logprobs = [None, *told[after_first:]]
    return output
