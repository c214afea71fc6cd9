"""
Queues audit rows that need not be written before their request is answered.

Changes commit together with their rows (`galenic_server.audit.chain`). Rows of answers, reads and
refusals are queued here and written in batches, a few times a second and at the end, so that no
request waits for the database. They also wait while the database is away. When the queue is full,
requests are refused until it drains, so that no answer goes without its row.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import structlog
from anyio.to_thread import run_sync

from galenic_adapters.errors import GalenicError, Unavailable
from galenic_server import logs
from galenic_server.audit.chain import Chain, Record
from galenic_server.audit.ledger import Spent

log = structlog.get_logger(__name__)

MOST_WAITING = 20_000
BATCH = 1000
FLUSH_SECONDS = 0.25
RETRY_SECONDS = 2.0


class Trail:
    """Queues rows for the chain; for use in one event loop."""

    def __init__(
        self,
        chain: Chain,
        *,
        most_waiting: int = MOST_WAITING,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        self.chain = chain
        self._flush_seconds = flush_seconds
        self._most_waiting = most_waiting
        self._waiting: list[Record] = []
        self._writing: asyncio.Task[None] | None = None

    def check_room(self) -> None:
        """Raise `Unavailable` if the queue is full."""
        if len(self._waiting) >= self._most_waiting:
            raise Unavailable("the audit rows of past answers cannot be written")

    def add(self, record: Record) -> None:
        self._waiting.append({"at": datetime.now(UTC).isoformat(), **record})

    def start(self) -> None:
        self._writing = asyncio.create_task(self._write())

    async def stop(self) -> None:
        """Write all queued rows; those that cannot be written go into the log."""
        if self._writing is not None:
            self._writing.cancel()
            with suppress(asyncio.CancelledError):
                await self._writing
        await self._flush()
        for record in self._waiting:
            log.critical("audit row not written", **{f"row_{k}": v for k, v in record.items()})

    async def _write(self) -> None:
        while True:
            is_done = await self._flush()
            await asyncio.sleep(self._flush_seconds if is_done else RETRY_SECONDS)

    async def _flush(self) -> bool:
        """Write the queue; returns False if the database failed."""
        while batch := self._waiting[:BATCH]:
            # Shielded: a cancelled write may still commit, and would then be repeated.
            appending = asyncio.ensure_future(run_sync(self.chain.append, batch))
            try:
                await asyncio.shield(appending)
            except asyncio.CancelledError:
                await asyncio.wait({appending})
                if appending.exception() is None:
                    del self._waiting[: len(batch)]
                raise
            except GalenicError as error:
                log.error("audit rows not written", waiting=len(self._waiting), **logs.where(error))
                return False
            del self._waiting[: len(batch)]
        return True


def provenance(origin: Mapping[str, Any], digest: str | None, spent: Spent) -> Record:
    """Make an answer's audit row: who asked, which adapter answered, and sizes; never text."""
    return {
        **origin,
        "action": "answer",
        "digest": digest,
        "answers": spent.num_answers,
        "prompt_tokens": spent.num_prompt_tokens,
        "completion_tokens": spent.num_completion_tokens,
    }
