"""
Follows changes: a replica polls those of others several times a second, and acknowledges them.

Adapters that others published are seated before they are asked for; deleted ones are evicted.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

import structlog
from anyio.to_thread import run_sync

from galenic_adapters.errors import GalenicError, Unavailable
from galenic_server import logs
from galenic_server.database.changes import Change, Kind
from galenic_server.engine.contract import Engine
from galenic_server.registry.store import Store

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.1
REPORT_SECONDS = 5.0
SWEEP_SECONDS = 60.0
MOST_SEATED = 10_000
UPLOADS_KEPT = timedelta(days=7)


class Follower:
    """
    Follows the store's changes until it is cancelled.

    silent_seconds: a replica that has not reported for so long is no longer waited for; its caches
    must have expired by then.   retention: how long deleted versions can be restored.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        *,
        place: str,
        silent_seconds: float,
        retention: timedelta,
    ) -> None:
        self._store = store
        self._engine = engine
        self._place = place
        self._silent_seconds = silent_seconds
        self._retention = retention
        self._id: str | None = None
        self._seen = 0
        self._reported = self._swept = -float("inf")
        self._warming: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Follow until cancelled; then leave, so that the fleet stops waiting for this replica."""
        try:
            while True:
                try:
                    await self._step()
                except Unavailable:
                    pass  # the database is asked again in the next step
                except Exception as error:  # noqa: BLE001  a replica that stops following counts as dead
                    log.error("changes cannot be followed", **logs.where(error))
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            with suppress(GalenicError):
                await asyncio.shield(run_sync(self._leave))

    async def _step(self) -> None:
        now = asyncio.get_running_loop().time()
        has_moved = await self._look()
        if has_moved or now - self._reported > REPORT_SECONDS:
            await self._report()
            self._reported = now
        if now - self._swept > SWEEP_SECONDS:
            await run_sync(self._sweep)
            self._swept = now

    async def _look(self) -> bool:
        if self._id is None:
            await run_sync(self._enter)
            return False
        seen, found = await run_sync(self._store.changes.catch_up, self._seen)
        has_moved, self._seen = seen != self._seen, seen
        self._warm(found)
        return has_moved

    def _enter(self) -> None:
        self._seen = self._store.changes.newest()
        self._store.changes.forget()
        self._id = self._store.replicas.enter(self._place, self._seen)

    async def _report(self) -> None:
        """Acknowledge the changes seen so far; every cache here has dropped stale values."""
        assert self._id is not None, "it has entered"
        if not await run_sync(self._store.replicas.report, self._id, self._seen):
            log.warning("replica was told to leave, and enters again")
            self._id = None

    def _leave(self) -> None:
        if self._id is not None:
            self._store.replicas.leave(self._id)

    def _sweep(self) -> None:
        self._store.replicas.leave_silent(self._silent_seconds)
        self._store.uploads.forget(UPLOADS_KEPT)
        if purged := self._store.versions.purge(self._retention):
            log.info("deleted adapters purged", count=purged)

    def _warm(self, found: Sequence[Change]) -> None:
        new = [change for change in found if change.kind is Kind.ADAPTER]
        gone = [change.name for change in found if change.kind is Kind.DELETION and change.name]
        if new or gone:
            task = asyncio.create_task(self._move(new, gone))
            self._warming.add(task)
            task.add_done_callback(self._warming.discard)

    async def _move(self, new: list[Change], gone: list[str]) -> None:
        """Seat and evict as far as possible; other adapters are seated at their first request."""
        try:
            for digest in gone:
                await self._engine.evict(digest)
            digests = [change.name for change in new if change.name]
            if many := [change.number for change in new if not change.name]:
                digests += await run_sync(self._store.packages.brought_by, many)
            await self._engine.seat(digests[-MOST_SEATED:], may_evict=False)
        except GalenicError as error:
            log.info("new adapters wait for their first request", **logs.where(error))
