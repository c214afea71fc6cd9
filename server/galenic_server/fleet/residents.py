"""
Preloads adapters at the start: the recently used ones, then the newest, as many as have room.

They are seated before the server is ready. Later, an adapter is seated when it is uploaded, here or
on another replica, or at its first request.
"""

import time
from collections import Counter

import structlog
from anyio.to_thread import run_sync

from galenic_adapters.errors import GalenicError
from galenic_server import logs
from galenic_server.audit.chain import Chain
from galenic_server.engine.contract import Engine
from galenic_server.registry.composer import Composer

log = structlog.get_logger(__name__)

SEATED_AT_ONCE = 100
MOST_ASKED = 2000
ROWS_READ = 10_000


class Residents:
    """Preloads adapters that fit this backbone and metaprompt when the server starts."""

    def __init__(
        self,
        composer: Composer,
        engine: Engine,
        chain: Chain,
    ) -> None:
        self._composer = composer
        self._engine = engine
        self._chain = chain

    async def load(self) -> None:
        """Preload as many as have room; the others are seated at their first request."""
        try:
            await self._load()
        except GalenicError as error:
            log.warning("adapters wait for their first request", **logs.where(error))

    async def _load(self) -> None:
        began = time.monotonic()
        num_slots = (await self._engine.stats()).num_slots
        digests = await run_sync(self._digests, num_slots)
        for first in range(0, len(digests), SEATED_AT_ONCE):
            some = digests[first : first + SEATED_AT_ONCE]
            if not await self._engine.seat(some, may_evict=False):
                break
        stats = await self._engine.stats()
        seconds = round(time.monotonic() - began, 3)
        log.info("adapters loaded", resident=stats.resident_adapters, seconds=seconds)

    def _digests(self, count: int) -> list[str]:
        fit, packages = self._composer.fit, self._composer.packages
        made_for = fit.backbone, fit.metaprompts
        asked = self.hottest()[:MOST_ASKED]
        fitting = set(packages.newest(*made_for, len(asked), among=asked))
        lately = [digest for digest in asked if digest in fitting]
        return list(dict.fromkeys([*lately, *packages.newest(*made_for, count)]))

    def hottest(self) -> list[str]:
        """Return the adapters of the latest audited answers, the most frequent first."""
        answers = (row for row in self._chain.latest(ROWS_READ) if row["action"] == "answer")
        counted = Counter(row["digest"] for row in answers if row["digest"])
        return [digest for digest, _ in counted.most_common()]
