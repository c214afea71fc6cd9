"""
The engine on vLLM: a request's prompt travels as virtual token ids, and its adapter is held in a
slot.

vLLM's engine core is a process of its own. When it dies, every request in flight ends with
`Unavailable`, and a supervisor starts another core and puts every resident back before the engine
is healthy again.
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
from uuid import uuid4

# Read by vLLM when it is imported, so set before.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_DO_NOT_TRACK", "1")
# Nobody else's: no line of vLLM's quotes what it was asked, in its own processes neither.
os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(Path(__file__).parent / "vllm_logging.json")

import torch
from transformers import AutoConfig, AutoTokenizer
from vllm import AsyncEngineArgs, RequestOutput, SamplingParams
from vllm.inputs.engine import TokensInput, tokens_input
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from galenic_adapters.errors import BadInput, EngineDied, NotFound, Unavailable
from galenic_adapters.factor import Factor
from galenic_server.engine.capacity import memory_bytes
from galenic_server.engine.checks import check_factor, fit, fitting
from galenic_server.engine.contract import (
    WARM_UP,
    Api,
    Call,
    Delta,
    EngineConfig,
    EngineStats,
    FactorsOf,
    Gate,
    OpenAI,
    OpenAIReply,
    Request,
    Work,
)
from galenic_server.engine.slots import Seated, Slots
from galenic_server.engine.vllm.compat import RequestRefused
from galenic_server.engine.vllm.embedding import Layout
from galenic_server.engine.vllm.openai_client import PromptingClient
from galenic_server.engine.vllm.openai_surface import Surface
from galenic_server.engine.vllm.plugin import LAYOUT_KEY, TOKENIZER_MODE
from galenic_server.engine.vllm.sampling import sampling_params
from galenic_server.engine.vllm.tokenizer import MAX_VIRTUAL_ID
from galenic_server.engine.vllm.worker import messages, pack, pack_metaprompt

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
FIRST_BACKOFF_SECONDS = 1.0
LAST_BACKOFF_SECONDS = 60.0
COMPONENTS_A_SLOT = 4  # where the configuration leaves the size of the pool to us
FETCHED_AT_ONCE = 500  # factors on their way from the store, in this process
LAST = 2**62  # a priority: after everybody who asks
CPU_ARGUMENTS: dict[str, Any] = {
    "kv_cache_memory_bytes": 1 << 30,  # 46,000 tokens of SmolLM2; vLLM's own is nearly all memory
    "block_size": 32,  # vLLM's default of 128 would cache no prompt of 64 rows
    "max_num_batched_tokens": 256,  # of 4,096, each token said would wait a second for prompts read
}


class VllmEngine:
    """An `Engine`; see there for what it promises."""

    def __init__(self, config: EngineConfig, factors_of: FactorsOf, gate: Gate) -> None:
        self._config, self._border = fit(config)
        self._factors_of = factors_of
        self._dtype: torch.dtype = getattr(torch, config.dtype)
        self._gate = gate
        self._layout = Layout(
            num_positions=config.metaprompt.num_positions,
            num_slots=config.num_slots,
            num_components=max(
                config.num_components or COMPONENTS_A_SLOT * config.num_slots, config.max_rank
            ),
            max_rank=config.max_rank,
        )
        _check_size(self._layout, self._config, self._border.vocab_size)
        self._tokenizer = AutoTokenizer.from_pretrained(config.backbone)
        self._slots = Slots(
            self._layout.num_slots, self._layout.num_components, fetch=self._fetch, load=self._load
        )
        self._llm: AsyncLLM | None = None
        self._surface: Surface | None = None
        self._making: asyncio.Task[AsyncLLM] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._next_message: asyncio.Task[None] | None = None
        self._unsent: list[Seated] = []
        self._sending = asyncio.Lock()
        self._is_ready = False
        self._stats = EngineStats(num_slots=config.num_slots)

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
            raise
        self._supervisor = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervisor
        await self._stop_core()

    async def healthy(self) -> bool:
        return self._is_ready and self._llm is not None and not self._llm.errored

    async def _start_core(self) -> None:
        """A fresh core with metaprompt and residents, that has answered a request."""
        making = asyncio.to_thread(_make_llm, self._config, self._layout)
        self._making = asyncio.create_task(making)
        self._llm = await asyncio.shield(self._making)
        async with self._sending:
            await self._send(pack_metaprompt(self._config.metaprompt))
            await self._put_back()
            is_guarded = all(await self._call("guard_vocabulary"))
            self._border = replace(self._border, is_guarded=is_guarded)
        async for _ in self._answer(WARM_UP):
            pass
        self._surface = Surface(
            PromptingClient(self._llm, self.run, self._border),
            tool_parser=self._config.tool_parser,
        )
        assert self._llm is not None, "it was made"
        self._tell_of_blocks(self._llm.vllm_config.cache_config.block_size)
        self._is_ready = True

    def _tell_of_blocks(self, block_tokens: int) -> None:
        """The cache keeps whole blocks: what stands over is computed for each request."""
        if over := self._layout.num_positions % block_tokens:
            logger.warning(
                "a prompt of %d tokens leaves %d in no whole block of %d: they are never cached",
                self._layout.num_positions,
                over,
                block_tokens,
            )

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
        """Replace a core that died, waiting longer after each that did not last."""
        backoff_seconds = FIRST_BACKOFF_SECONDS
        loop = asyncio.get_running_loop()
        while True:
            since = loop.time()
            while await self.healthy():  # noqa: ASYNC110  # vLLM tells of a death by a flag
                await asyncio.sleep(POLL_SECONDS)
            if loop.time() - since > LAST_BACKOFF_SECONDS:
                backoff_seconds = FIRST_BACKOFF_SECONDS
            self._stats = replace(self._stats, restarts=self._stats.restarts + 1)
            logger.error("engine core died, restart in %.0f s", backoff_seconds)
            try:
                await self._stop_core()
                await asyncio.sleep(backoff_seconds)
                await self._start_core()
            except Exception:  # whatever stopped it, another attempt follows
                logger.exception("engine core did not start")
            backoff_seconds = min(2 * backoff_seconds, LAST_BACKOFF_SECONDS)

    # Requests

    def check(self, request: Request, field: str = "text") -> None:
        self._border.check(request, field)

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
        outputs = self.run(request.id, Work.of(request), params, reasoning_ended=True)
        async with aclosing(outputs):
            async for output in outputs:
                yield _delta(request, output)

    async def run(
        self, id_: str, work: Work, params: SamplingParams, **more: Any
    ) -> AsyncGenerator[RequestOutput]:
        """vLLM's outputs for a text with the adapter's prompt before it, and without it in them."""
        async with AsyncExitStack() as held:
            turn = await held.enter_async_context(self._gate.enter(work))
            prompt_ids: list[int] = []
            if work.adapter is not None:
                place = await held.enter_async_context(self._slots.hold(work.adapter))
                prompt_ids.extend(self._layout.virtual_ids(self._border.vocab_size, place.slot))
            salt = self._cache_salt(work.tenant, work.adapter)
            prompt = tokens_input([*prompt_ids, *work.text_ids], cache_salt=salt)
            more["priority"] = turn.priority
            async with aclosing(self._run(id_, prompt, params, **more)) as outputs:
                async for output in outputs:
                    turn.said(sum(len(said.token_ids) for said in output.outputs))
                    if output.finished:
                        num_tokens = len(prompt_ids) + len(work.text_ids)
                        self._count_prefix(num_tokens, output.num_cached_tokens or 0)
                    _check_end(output, is_bound=params.structured_outputs is not None)
                    yield _without_prompt(output, len(prompt_ids))

    async def _run(
        self, id_: str, prompt: TokensInput, params: SamplingParams, **more: Any
    ) -> AsyncGenerator[RequestOutput]:
        """vLLM's outputs, and its errors as ours."""
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
        """Keeps apart what tenants and adapters leave in the prefix cache, wherever they sat."""
        owner = f"{len(tenant)}:{tenant}:{adapter or 'bare'}"
        return hmac.new(self._config.secret, owner.encode(), hashlib.sha256).hexdigest()

    def _count_prefix(self, num_tokens: int, num_cached: int) -> None:
        self._stats = replace(
            self._stats,
            prefix_queries=self._stats.prefix_queries + num_tokens,
            prefix_hits=self._stats.prefix_hits + num_cached,
        )

    # Adapters

    async def seat(self, digests: Sequence[str]) -> None:
        new = [digest for digest in digests if digest not in self._slots]
        for some in _parts(new):
            await self.take(await asyncio.to_thread(self._factors_of, some))

    async def take(self, factors: Mapping[str, Factor], *, may_evict: bool = True) -> bool:
        return await self._slots.take(fitting(self._config, factors), may_evict=may_evict)

    async def warm(self, tenant: str, digest: str) -> None:
        async with self._slots.hold(digest) as place:
            ids = [*self._layout.virtual_ids(self._border.vocab_size, place.slot), 0]
            prompt = tokens_input(ids, cache_salt=self._cache_salt(tenant, digest))
            params = SamplingParams(max_tokens=1, detokenize=False)
            async for _ in self._run(f"warm-{uuid4().hex}", prompt, params, priority=LAST):
                pass

    async def evict(self, digest: str) -> None:
        self._slots.evict(digest)

    async def stats(self) -> EngineStats:
        return replace(
            self._stats,
            resident_adapters=self._slots.num_seated,
            slot_loads=self._slots.num_loads,
            slot_evictions=self._slots.num_evictions,
        )

    async def _fetch(self, digest: str) -> Factor:
        found = await asyncio.to_thread(self._factors_of, [digest])
        if digest not in found:
            raise NotFound(f"no adapter of digest {digest}")
        return check_factor(self._config, found[digest])

    async def _put_back(self) -> None:
        """What was resident in the core before this one, as far as it still exists."""
        residents = self._slots.seated()
        for some in _parts(list(residents)):
            factors = await asyncio.to_thread(self._factors_of, some)
            for digest in set(some) - factors.keys():
                self._slots.evict(digest)
            await self._send_all([(residents[digest], one) for digest, one in factors.items()])

    async def _load(self, seated: Sequence[Seated]) -> None:
        """Write factors into the engine; those that wait while a message is out share the next."""
        self._unsent += seated
        if self._next_message is None:
            self._next_message = asyncio.create_task(self._send_unsent())
        await self._next_message

    async def _send_unsent(self) -> None:
        async with self._sending:
            self._next_message = None
            unsent, self._unsent = self._unsent, []
            await self._send_all(unsent)

    async def _send_all(self, seated: Sequence[Seated]) -> None:
        for part in messages(seated, self._dtype):
            await self._send(await asyncio.to_thread(pack, part, self._dtype))

    async def _send(self, packed: bytes) -> None:
        await self._call("load_prompts", packed)

    async def _call(self, method: str, *args: Any) -> list[Any]:
        """Ask the workers; vLLM leaves a call unanswered when its core dies, so watch it."""
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


def _check_size(layout: Layout, config: EngineConfig, vocab_size: int) -> None:
    """Raises `BadInput` where the tables fit no memory, or their ids no int32."""
    needed = layout.num_bytes(config.metaprompt.width, getattr(torch, config.dtype))
    is_cpu = current_platform.is_cpu()
    there = memory_bytes() if is_cpu else current_platform.get_device_total_memory()
    if needed > there / 2:
        tables = f"{layout.num_slots:,} slots of {layout.num_components:,} ranks in all"
        held = f"{needed / 2**30:.1f} GiB, and may take half of {there / 2**30:.1f} GiB"
        raise BadInput("num_slots", f"{tables} need {held}")
    last = layout.virtual_ids(vocab_size, layout.num_slots - 1)[-1]
    if last > MAX_VIRTUAL_ID:
        raise BadInput("num_slots", f"{layout.num_slots:,} would need ids up to {last:,}")


def _parts(digests: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(digests), FETCHED_AT_ONCE):
        yield digests[first : first + FETCHED_AT_ONCE]


def _make_llm(config: EngineConfig, layout: Layout) -> AsyncLLM:
    if TOKENIZER_MODE not in entry_points(group="vllm.general_plugins").names:
        raise RuntimeError("vLLM does not find Galenic's plugin: install the package `galenic`")
    llm = make_vllm(
        config,
        scheduling_policy="priority",
        tokenizer_mode=TOKENIZER_MODE,
        worker_extension_cls="galenic_server.engine.vllm.worker.PromptWorker",
        additional_config={LAYOUT_KEY: asdict(layout)},
        structured_outputs_config={"backend": "xgrammar"} | _reasoning_of(config.backbone),
    )
    # Here tensors are an upload's, and small; the workers have been given threads of their own.
    torch.set_num_threads(1)
    return llm


def make_vllm(config: EngineConfig, **more: Any) -> AsyncLLM:
    """vLLM over *config*'s backbone as this machine runs it; *more* is what it is made for."""
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
    """How the engine tells when a backbone's reasoning is over, and a format begins to bind."""
    is_harmony = AutoConfig.from_pretrained(backbone).model_type == "gpt_oss"
    return {"reasoning_parser": "openai_gptoss"} if is_harmony else {}


def _share_the_cpu(num_workers: int) -> None:
    """
    Leave a core to the server and bind none, on a single NUMA node; what is set already stays.

    vLLM would bind its threads to cores, and one core that is busy holds up all of them.
    """
    if Path("/sys/devices/system/node/node1").exists():
        return
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault(
        "OMP_NUM_THREADS", str(max(1, (torch.get_num_threads() - 1) // num_workers))
    )


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
    Raises where vLLM gave up on a request.

    One that is bound ends so where its grammar allows no token: a schema that is only itself.
    """
    for reason in {said.finish_reason for said in output.outputs} - {None, "stop", "length"}:
        if reason == "error" and is_bound:
            raise BadInput("constraint", "leads to where no token is allowed")
        raise Unavailable(f"the engine ended this request: {reason}")


def _without_prompt(output: RequestOutput, num_virtual: int) -> RequestOutput:
    """*output* as if the text were all that there is."""
    output.num_cached_tokens = max(0, (output.num_cached_tokens or 0) - num_virtual)
    output.num_cache_creation_tokens = None
    if output.prompt_token_ids is not None:
        output.prompt_token_ids = output.prompt_token_ids[num_virtual:]
    if output.prompt_logprobs is not None:
        output.prompt_logprobs = output.prompt_logprobs[num_virtual:]
    return output
