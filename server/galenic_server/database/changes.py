"""
Numbers every change to the database, so that replicas can follow and acknowledge changes.

A writer takes the next number first, and with it the only lock there is: writers queue, and a
number becomes visible only after all smaller ones. A replica that has seen a number has dropped
what the change made stale; once every replica has, the change has *converged*.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import sqlalchemy as sa

from galenic_server.database.database import Database
from galenic_server.database.tables import changes, clock

MAX_CHANGES_KEPT = 10_000
PRUNE_EVERY = 500
CURRENT_SECONDS = 1.0
"""Maximum age of the last look at the database for which cached values count as current."""


class Kind(StrEnum):
    """Says what a change is about."""

    ADAPTER = "adapter"  # a version was written; the change is named by its digest
    DELETION = "deletion"  # a version was deleted
    ALIAS = "alias"
    SHARE = "share"
    KEY = "key"
    TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class Change:
    number: int
    kind: Kind
    tenant: str
    name: str


@dataclass(slots=True)
class Writing:
    """Holds an open transaction, and the change it will record unless *is_change* is cleared."""

    db: sa.Connection
    change: Change
    is_change: bool = True

    @property
    def number(self) -> int:
        return self.change.number


Listener = Callable[[Sequence[Change] | None], None]
"""Called with the changes, or with None if anything may have changed."""


class Changes:
    """Makes changes, reads those of others, and tells listeners of both."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._listeners: list[Listener] = []
        self._looked = -float("inf")

    @contextmanager
    def writing(self, kind: Kind, tenant: str, name: str = "") -> Iterator[Writing]:
        """Open a transaction that is the next change; local listeners are told once it commits."""
        with self.database.writing() as db:
            tick = clock.update().values(number=clock.c.number + 1).returning(clock.c.number)
            writing = Writing(db, Change(db.execute(tick).scalar_one(), kind, tenant, name))
            yield writing
            if writing.is_change:
                _record(db, writing.change)
            else:
                db.execute(clock.update().values(number=clock.c.number - 1))
        if writing.is_change:
            self._notify([writing.change])

    def listen(self, listener: Listener) -> None:
        """Call *listener* after every change that is made or seen here; from any thread."""
        self._listeners.append(listener)

    def forget(self) -> None:
        """Tell the listeners that anything may have changed."""
        self._notify(None)

    def newest(self) -> int:
        """Return the number of the last change."""
        with self.database.reading() as db:
            return int(db.execute(sa.select(clock.c.number)).scalar_one())

    def after(self, number: int, limit: int = 1000) -> list[Change]:
        """Return the changes after *number*, in order."""
        query = sa.select(changes).where(changes.c.number > number)
        with self.database.reading() as db:
            rows = db.execute(query.order_by(changes.c.number).limit(limit)).all()
        return [Change(row.number, Kind(row.kind), row.tenant, row.name) for row in rows]

    def catch_up(self, seen: int) -> tuple[int, list[Change]]:
        """Read the changes after *seen* and tell the listeners; return the number now seen."""
        began = time.monotonic()
        seen, found = self._look(seen)
        if found is None or found:
            self._notify(found)
        self._looked = began
        return seen, found or []

    @property
    def is_current(self) -> bool:
        """Tell whether listeners know of every change until `CURRENT_SECONDS` ago."""
        return time.monotonic() - self._looked < CURRENT_SECONDS

    def _look(self, seen: int) -> tuple[int, list[Change] | None]:
        newest = self.newest()
        if newest == seen:
            return seen, []
        found = self.after(seen) if newest > seen else []
        if not found or found[0].number != seen + 1:
            return newest, None  # changes were pruned unseen, or the database was replaced
        return found[-1].number, found

    def _notify(self, found: Sequence[Change] | None) -> None:
        for listener in self._listeners:
            listener(found)


def now() -> datetime:
    return datetime.now(UTC)


def _record(db: sa.Connection, change: Change) -> None:
    db.execute(
        changes.insert().values(
            number=change.number, kind=change.kind.value, tenant=change.tenant, name=change.name
        )
    )
    if change.number % PRUNE_EVERY == 0:
        old = changes.c.number <= change.number - MAX_CHANGES_KEPT
        db.execute(changes.delete().where(old))
