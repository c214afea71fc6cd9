"""
Audit rows on their way to the database: what need not be there before its answer is.

What an admin changes is written with the change itself (`galenic_server.audit.chain`). An answer's
provenance, a read and a refusal are collected here and written together, a few times a second and
at the end, so that no request waits for the database. While the database is away they wait; when
too many do, nothing more is answered until they are written: no answer is without its row.
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
    """Rows that wait for the chain; of one event loop."""

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
        """Raises `Unavailable` where another row could not be kept."""
        if len(self._waiting) >= self._most_waiting:
            raise Unavailable("the audit rows of past answers cannot be written")

    def add(self, record: Record) -> None:
        self._waiting.append({"at": datetime.now(UTC).isoformat(), **record})

    def start(self) -> None:
        self._writing = asyncio.create_task(self._write())

    async def stop(self) -> None:
        """All rows written; those that cannot be are in the log, which may keep them too."""
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
        """Whether nothing is left to write."""
        while batch := self._waiting[:BATCH]:
            # Shielded: a write that is given up midway may still happen, and would happen twice.
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
    """An answer's row: who asked, which adapter answered, when, and sizes; never a text."""
    return {
        **origin,
        "action": "answer",
        "digest": digest,
        "answers": spent.num_answers,
        "prompt_tokens": spent.num_prompt_tokens,
        "completion_tokens": spent.num_completion_tokens,
    }
