"""
Queues audit rows that need not be written before their request is answered.

Changes commit together with their rows (`galenic_server.audit.chain`). Rows of answers, reads and
refusals are queued here and written in batches, a few times a second and at the end, so that no
request waits for the database. They also wait while the database is away. When the queue is full,
requests are refused until it drains, so that no answer goes without its row.

Once a minute the chain's head is logged and handed to the `Witness`.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import structlog
from anyio.to_thread import run_sync

from galenic_adapters.errors import GalenicError, Unavailable
from galenic_server import logs
from galenic_server.audit.chain import NONE, Chain, Record
from galenic_server.audit.ledger import Spent
from galenic_server.audit.refusals import Refusals
from galenic_server.audit.witness import Witness

log = structlog.get_logger(__name__)

MOST_WAITING = 20_000
BATCH = 1000
FLUSH_SECONDS = 0.25
RETRY_SECONDS = 2.0
NOTE_SECONDS = 60.0


class Trail:
    """Queues rows for the chain; for use in one event loop."""

    def __init__(
        self,
        chain: Chain,
        witness: Witness | None = None,
        *,
        most_waiting: int = MOST_WAITING,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        self.chain = chain
        self._flush_seconds = flush_seconds
        self._most_waiting = most_waiting
        self._waiting: list[Record] = []
        self._writing: asyncio.Task[None] | None = None
        self._witness = witness
        self._noted, self._noted_at = NONE, -NOTE_SECONDS
        self.refusals = Refusals(self.add)

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
        self.refusals.settle(all_of_them=True)
        if await self._flush():
            await run_sync(self._note)
        for record in self._waiting:
            log.critical("audit row not written", **{f"row_{k}": v for k, v in record.items()})

    async def _write(self) -> None:
        while True:
            self.refusals.settle()
            is_done = await self._flush()
            if is_done and time.monotonic() > self._noted_at + NOTE_SECONDS:
                await run_sync(self._note)
            await asyncio.sleep(self._flush_seconds if is_done else RETRY_SECONDS)

    def _note(self) -> None:
        """Log where the chain ends, and let the witness remember it."""
        self._noted_at = time.monotonic()
        try:
            head = self.chain.head()
            if head == self._noted:
                return
            log.info("audit head", head=str(head))
            if self._witness:
                self._witness.write(head)
            self._noted = head
        except GalenicError as error:
            log.error("audit head not noted", **logs.where(error))

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
