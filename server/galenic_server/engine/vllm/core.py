"""
Runs vLLM's engine core, which is a process of its own: starts it, watches it, and replaces it.

When it crashes or hangs, every request in flight ends with `EngineDied`, and a supervisor starts
another core and prepares it before requests are taken again.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

from galenic_server.engine.vllm import launch  # noqa: F401  # isort: skip  # before vLLM
from vllm import RequestOutput, SamplingParams
from vllm.inputs.engine import TokensInput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from galenic_adapters.errors import BadInput, EngineDied, Unavailable
from galenic_server.engine.vllm.compat import RequestRefused
from galenic_server.engine.vllm.watchdog import watched

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
FIRST_BACKOFF_SECONDS = 1.0
LAST_BACKOFF_SECONDS = 60.0
PREPARE_SECONDS = 1800.0


class Core:
    """
    Runs one core at a time.

    make: starts a core; blocks.   prepare: makes a fresh core ready for requests.
    silent_seconds: a core that answers nothing for so long is not healthy, and is killed after
    three times as long.
    """

    def __init__(
        self,
        make: Callable[[], AsyncLLM],
        prepare: Callable[[AsyncLLM], Awaitable[None]],
        *,
        silent_seconds: float,
    ) -> None:
        self._make = make
        self._prepare = prepare
        self._silent_seconds = silent_seconds
        self._making: asyncio.Task[AsyncLLM] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._is_ready = False
        self._is_silent = False
        self.llm: AsyncLLM | None = None
        self.num_restarts = 0

    @property
    def is_healthy(self) -> bool:
        return self._is_alive and not self._is_silent

    @property
    def _is_alive(self) -> bool:
        return self._is_ready and self.llm is not None and not self.llm.errored

    def _hear(self, is_silent: bool) -> None:
        self._is_silent = is_silent

    async def start(self) -> None:
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        self._supervisor = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervisor
        await self._stop()

    async def call(self, method: str, *args: Any) -> list[Any]:
        """Call the workers; raises `Unavailable` if the core dies, as vLLM would never answer."""
        llm = self._running()
        call = asyncio.ensure_future(llm.collective_rpc(method, args=args))
        while not call.done():
            await asyncio.wait({call}, timeout=POLL_SECONDS)
            if llm.errored:
                call.cancel()
                raise Unavailable("the engine died")
        return call.result()

    async def generate(
        self, id_: str, prompt: TokensInput, params: SamplingParams, **more: Any
    ) -> AsyncGenerator[RequestOutput]:
        """Yield vLLM's outputs, and translate its errors into ours."""
        try:
            async with aclosing(self._running().generate(prompt, params, id_, **more)) as outputs:
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

    def _running(self) -> AsyncLLM:
        if self.llm is None:
            raise Unavailable("the engine is starting")
        return self.llm

    async def _start(self) -> None:
        self._making = asyncio.create_task(asyncio.to_thread(self._make))
        self.llm = await asyncio.shield(self._making)
        async with asyncio.timeout(PREPARE_SECONDS):  # it may hang here too, and is not yet watched
            await self._prepare(self.llm)
        self._is_ready = True

    async def _stop(self) -> None:
        self._is_ready = False
        making, self._making, self.llm = self._making, None, None
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
            self._is_silent = False
            async with watched(self.llm, self._silent_seconds, self._hear):
                while self._is_alive:  # noqa: ASYNC110  # vLLM shows a death by a flag only
                    await asyncio.sleep(POLL_SECONDS)
            if loop.time() - since > LAST_BACKOFF_SECONDS:
                backoff_seconds = FIRST_BACKOFF_SECONDS
            self.num_restarts += 1
            logger.error("engine core died, restart in %.0f s", backoff_seconds)
            try:
                await self._stop()
                await asyncio.sleep(backoff_seconds)
                await self._start()
            except Exception:  # whatever stopped it, another attempt follows
                logger.exception("engine core did not start")
            backoff_seconds = min(2 * backoff_seconds, LAST_BACKOFF_SECONDS)
