"""
A replica's place in the fleet: it looks what has changed, several times a second, and says so.

What others published is seated here before it is asked for, and what they deleted is evicted.
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
from galenic_server.registry.store import SqlStore

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.1
REPORT_SECONDS = 5.0
SWEEP_SECONDS = 60.0
MOST_SEATED = 10_000
UPLOADS_KEPT = timedelta(days=7)


class Follower:
    """
    Follows the store's changes until it is cancelled.

    silent_seconds: after so long without a word a replica is no longer waited for; it must then not
    answer from what it remembers either.   retention: how long deleted versions can come back.
    """

    def __init__(
        self,
        store: SqlStore,
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
        """Returns only when cancelled; then nobody waits for this replica any more."""
        try:
            while True:
                try:
                    await self._step()
                except Unavailable:
                    pass  # it is asked again
                except Exception as error:  # noqa: BLE001  whoever stops following is believed dead
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
        seen, found = await run_sync(self._store.catch_up, self._seen)
        has_moved, self._seen = seen != self._seen, seen
        self._warm(found)
        return has_moved

    def _enter(self) -> None:
        self._seen = self._store.newest_change()
        self._store.forget()
        self._id = self._store.enter(self._place, self._seen)

    async def _report(self) -> None:
        """What is seen was forgotten by everyone here who had remembered it."""
        assert self._id is not None, "it has entered"
        if not await run_sync(self._store.report, self._id, self._seen):
            log.warning("replica was told to leave, and enters again")
            self._id = None

    def _leave(self) -> None:
        if self._id is not None:
            self._store.leave(self._id)

    def _sweep(self) -> None:
        self._store.leave_silent(self._silent_seconds)
        self._store.forget_uploads(UPLOADS_KEPT)
        if purged := self._store.purge(self._retention):
            log.info("deleted adapters purged", count=purged)

    def _warm(self, found: Sequence[Change]) -> None:
        new = [one for one in found if one.kind is Kind.ADAPTER]
        gone = [one.name for one in found if one.kind is Kind.DELETION and one.name]
        if new or gone:
            task = asyncio.create_task(self._move(new, gone))
            self._warming.add(task)
            task.add_done_callback(self._warming.discard)

    async def _move(self, new: list[Change], gone: list[str]) -> None:
        """Best effort: what has no seat gets one when it is asked for."""
        try:
            for digest in gone:
                await self._engine.evict(digest)
            digests = [one.name for one in new if one.name]
            if many := [one.number for one in new if not one.name]:
                digests += await run_sync(self._store.brought_by, many)
            await self._engine.seat(digests[-MOST_SEATED:])
        except GalenicError as error:
            log.info("new adapters wait for their first request", **logs.where(error))
