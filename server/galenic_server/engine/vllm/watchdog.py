"""
Kills an engine core that hangs.

vLLM notices a core that dies, not one that hangs. Once killed, the core is one that died: requests
in flight end with `EngineDied`, and the supervisor starts another.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vllm.v1.engine.async_llm import AsyncLLM

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
TICK_SECONDS = 1.0


@asynccontextmanager
async def watched(llm: AsyncLLM | None, silent_seconds: float) -> AsyncIterator[None]:
    """Kill the core of *llm* if, during the block, a worker is silent for *silent_seconds*."""
    watching = asyncio.create_task(_watch(llm, silent_seconds)) if llm else None
    try:
        yield
    finally:
        if watching is not None:
            watching.cancel()


async def _watch(llm: AsyncLLM, silent_seconds: float) -> None:
    while await _answers(llm, silent_seconds):  # noqa: ASYNC110  # a worker's silence is no event
        await asyncio.sleep(BEAT_SECONDS)
    logger.error("engine silent for %.0f s, killing its core", silent_seconds)
    manager = llm.engine_core.resources.engine_manager
    for core in manager.processes if manager else ():
        core.kill()


async def _answers(llm: AsyncLLM, silent_seconds: float) -> bool:
    """
    Tell whether core and workers answer in time.

    The time is counted in ticks of this loop: a loop that was held up itself accuses nobody.
    """
    beat = asyncio.ensure_future(llm.collective_rpc("beat"))
    try:
        for _ in range(max(1, round(silent_seconds / TICK_SECONDS))):
            await asyncio.wait({beat}, timeout=TICK_SECONDS)
            if beat.done():
                beat.exception()  # an error is an answer too
                return True
        return False
    finally:
        beat.cancel()
