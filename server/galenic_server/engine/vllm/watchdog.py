"""
Notices an engine core that hangs, and kills one that does not come back.

vLLM notices a core that dies, not one that hangs. A machine that is overloaded may answer late, so
a silent core takes no new requests at first, and is killed only after a longer silence. Then it is
one that died: requests in flight end with `EngineDied`, and the supervisor starts another.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from vllm.v1.engine.async_llm import AsyncLLM

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
TICK_SECONDS = 1.0
PATIENCE = 3
"""A core is killed once it has been silent for so many times the seconds that make it silent."""


@asynccontextmanager
async def watched(
    llm: AsyncLLM | None, silent_seconds: float, tell: Callable[[bool], None]
) -> AsyncIterator[None]:
    """
    Watch the core of *llm* during the block.

    *tell* is called with True once a worker has been silent for *silent_seconds*, with False when
    it answers again.
    """
    watching = asyncio.create_task(_watch(llm, silent_seconds, tell)) if llm else None
    try:
        yield
    finally:
        if watching is not None:
            watching.cancel()


async def _watch(llm: AsyncLLM, silent_seconds: float, tell: Callable[[bool], None]) -> None:
    while await _answers(llm, silent_seconds, tell):  # noqa: ASYNC110  # silence is no event
        await asyncio.sleep(BEAT_SECONDS)
    logger.error("engine silent for %.0f s, killing its core", PATIENCE * silent_seconds)
    manager = llm.engine_core.resources.engine_manager
    for core in manager.processes if manager else ():
        core.kill()


async def _answers(llm: AsyncLLM, silent_seconds: float, tell: Callable[[bool], None]) -> bool:
    """
    Wait for core and workers to answer; returns False if they never do.

    The time is counted in ticks of this loop: a loop that was held up itself accuses nobody.
    """
    most = max(1, round(silent_seconds / TICK_SECONDS))
    beat = asyncio.ensure_future(llm.collective_rpc("beat"))
    try:
        for tick in range(1, PATIENCE * most + 1):
            await asyncio.wait({beat}, timeout=TICK_SECONDS)
            if beat.done():
                beat.exception()  # an error is an answer too
                tell(False)
                return True
            if tick == most:
                logger.warning("engine silent for %.0f s, it takes no requests", silent_seconds)
                tell(True)
        return False
    finally:
        beat.cancel()
