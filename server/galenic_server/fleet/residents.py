"""
Loading at start: the adapters used lately, then the newest, as many as have room.

They are in their slots before the server is ready, read in one pass. After that an adapter is
seated when it is uploaded, here or on another replica, and any other at its first request.
"""

import asyncio
import time
from collections import Counter

import structlog
from anyio.to_thread import run_sync

from galenic_adapters.errors import GalenicError
from galenic_adapters.package.manifest import BackboneId
from galenic_server import logs
from galenic_server.audit.chain import Chain
from galenic_server.engine.contract import Engine
from galenic_server.registry.factors import Factors

log = structlog.get_logger(__name__)

READ_AT_ONCE = 2000
ROWS_READ = 10_000
PROGRESS_SECONDS = 5.0
LOOK_SECONDS = 1.0

Pair = tuple[str, str]
"""A tenant, and the digest of an adapter that it uses; the prefix cache is keyed by both."""


class Residents:
    """
    Loads adapters when the server starts, and caches prompts after each start of the engine.

    num_warm: for how many pairs of tenant and adapter.
    """

    def __init__(
        self,
        factors: Factors,
        engine: Engine,
        chain: Chain,
        *,
        backbone: BackboneId,
        num_warm: int = 0,
    ) -> None:
        self._factors = factors
        self._engine = engine
        self._chain = chain
        self._backbone = backbone
        self._num_warm = num_warm

    async def load(self) -> None:
        """Load as many as possible; the others are seated at their first request."""
        try:
            await self._load()
        except GalenicError as error:
            log.warning("adapters wait for their first request", **logs.where(error))

    async def _load(self) -> None:
        began = told = time.monotonic()
        digests = await run_sync(self._digests)
        for first in range(0, len(digests), READ_AT_ONCE):
            factors = await run_sync(self._factors.get_many, digests[first : first + READ_AT_ONCE])
            if not await self._engine.take(factors, may_evict=False):
                break
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                log.info("adapters loading", done=first + READ_AT_ONCE, of=len(digests))
        stats = await self._engine.stats()
        seconds = round(time.monotonic() - began, 3)
        log.info("adapters loaded", resident=stats.resident_adapters, seconds=seconds)

    def _digests(self) -> list[str]:
        config = self._engine.config
        made_for = self._backbone, config.metaprompt.digest
        asked = list(dict.fromkeys(digest for _, digest in self.hottest()))[:READ_AT_ONCE]
        fitting = set(self._factors.newest(*made_for, len(asked), among=asked))
        lately = [digest for digest in asked if digest in fitting]
        stored = self._factors.newest(*made_for, config.num_slots)
        return list(dict.fromkeys([*lately, *stored]))

    def hottest(self) -> list[Pair]:
        """Return who used what in the last answers, the most frequent first."""
        answers = (one for one in self._chain.latest(ROWS_READ) if one["action"] == "answer")
        pairs = Counter((one["tenant"], one["digest"]) for one in answers if one["digest"])
        return [pair for pair, _ in pairs.most_common()]

    async def keep_warm(self) -> None:
        """Cache the hottest pairs' prompts after each start of the engine, until cancelled."""
        while self._num_warm:
            await self._until_healthy(True)
            try:
                for tenant, digest in (await run_sync(self.hottest))[: self._num_warm]:
                    await self._engine.warm(tenant, digest)
            except GalenicError as error:
                log.info("prompts are not warm", **logs.where(error))
            await self._until_healthy(False)

    async def _until_healthy(self, wanted: bool) -> None:
        while await self._engine.healthy() != wanted:  # noqa: ASYNC110  # engines tell by a flag
            await asyncio.sleep(LOOK_SECONDS)
