"""
What changes in the store is numbered, so that every replica can follow, and say how far it is.

A writer takes the next number first, and with it the only lock there is: writers stand in a line,
and a number is seen only after all smaller ones. A replica that has seen a number has forgotten
what the change made untrue; once all have, the change is *converged*.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Self

import sqlalchemy as sa

from galenic_adapters.errors import NotFound
from galenic_server.database.database import Database
from galenic_server.database.tables import changes, clock, replicas

MAX_CHANGES_KEPT = 10_000
PRUNE_EVERY = 500
CURRENT_SECONDS = 1.0
"""How long after its last look a replica may take what it remembers for what is so."""


class Kind(StrEnum):
    """What has changed."""

    ADAPTER = "adapter"  # there is a version more; named by its digest
    DELETION = "deletion"  # or one less
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


@dataclass(frozen=True, slots=True)
class Replica:
    """A server on this database, when it was last heard of, and the last change it has seen."""

    id: str
    place: str
    started: datetime
    heard: datetime
    seen: int


Listener = Callable[[Sequence[Change] | None], None]
"""Is told what has changed, or none where that may be anything."""


class SqlChanges:
    """The part of the store that the other parts stand on: the database, and its changes."""

    def __init__(self, database: Database) -> None:
        self.database = self._database = database
        self._listeners: list[Listener] = []
        self._looked = -float("inf")
        self.is_lost = False
        """Whether the last look at the database failed."""

    @classmethod
    def open(cls, url: str) -> Self:
        """The store at ``sqlite:///file`` or ``postgresql://…``, its tables brought up to date."""
        return cls(Database.open(url))

    def close(self) -> None:
        self._database.close()

    # Following

    def listen(self, listener: Listener) -> None:
        """Call *listener* after every change that is made or seen here; from any thread."""
        self._listeners.append(listener)

    def forget(self) -> None:
        """Tell the listeners that anything may have changed."""
        self._tell(None)

    def newest_change(self) -> int:
        with self._database.reading() as db:
            return int(db.execute(sa.select(clock.c.number)).scalar_one())

    def changes(self, after: int, limit: int = 1000) -> list[Change]:
        """What came *after* that number, in order."""
        query = sa.select(changes).where(changes.c.number > after)
        with self._database.reading() as db:
            rows = db.execute(query.order_by(changes.c.number).limit(limit)).all()
        return [Change(row.number, Kind(row.kind), row.tenant, row.name) for row in rows]

    def catch_up(self, seen: int) -> tuple[int, list[Change]]:
        """Look what came after *seen* and tell the listeners; the number that is now seen."""
        began = time.monotonic()
        try:
            seen, found = self._look(seen)
        except BaseException:
            self.is_lost = True
            raise
        if found is None or found:
            self._tell(found)
        self.is_lost, self._looked = False, began
        return seen, found or []

    def _look(self, seen: int) -> tuple[int, list[Change] | None]:
        newest = self.newest_change()
        if newest == seen:
            return seen, []
        found = self.changes(seen) if newest > seen else []
        if not found or found[0].number != seen + 1:
            return newest, None  # pruned before they were seen, or it is another database
        return found[-1].number, found

    @property
    def is_current(self) -> bool:
        """Whether listeners know of all that changed until a moment ago."""
        return self.seconds_behind < CURRENT_SECONDS

    @property
    def seconds_behind(self) -> float:
        """Since the last look that succeeded; infinite where nothing follows."""
        return time.monotonic() - self._looked

    # Replicas

    def enter(self, place: str, seen: int) -> str:
        """A replica begins at *place*, instead of the one that was there; returns its id."""
        row = {"id": secrets.token_hex(8), "place": place, "seen": seen}
        with self._database.writing() as db:
            db.execute(replicas.delete().where(replicas.c.place == place))
            db.execute(replicas.insert().values(row | {"started": now(), "heard": now()}))
        return str(row["id"])

    def report(self, replica: str, seen: int) -> bool:
        """It lives and has seen that much. False where it was told to leave, or replaced."""
        change = replicas.update().where(replicas.c.id == replica)
        with self._database.writing(is_act=False) as db:
            return bool(db.execute(change.values(seen=seen, heard=now())).rowcount)

    def leave(self, replica: str) -> None:
        """Nobody waits for it any more. Raises `NotFound`."""
        with self._database.writing() as db:
            if not db.execute(replicas.delete().where(replicas.c.id == replica)).rowcount:
                raise NotFound("no such replica")

    def leave_silent(self, seconds: float) -> None:
        """The same for all that were not heard of for so long."""
        silent = replicas.c.heard < now() - timedelta(seconds=seconds)
        with self._database.writing() as db:
            db.execute(replicas.delete().where(silent))

    def replicas(self) -> list[Replica]:
        with self._database.reading() as db:
            rows = db.execute(sa.select(replicas).order_by(replicas.c.started)).all()
        return [Replica(*row) for row in rows]

    def behind(self, number: int) -> list[str]:
        """The replicas that have not seen that change yet."""
        query = sa.select(replicas.c.id).where(replicas.c.seen < number)
        with self._database.reading() as db:
            return sorted(db.scalars(query))

    def seen_by_all(self) -> float:
        """The number of the last change that is converged; infinite where nobody follows."""
        with self._database.reading() as db:
            least: int | None = db.scalar(sa.select(sa.func.min(replicas.c.seen)))
        return float("inf") if least is None else least

    # For the parts above

    @contextmanager
    def _changing(self, kind: Kind, tenant: str, name: str = "") -> Iterator["Writing"]:
        """A transaction that is one change, of the next number; listeners here hear of it now."""
        with self._database.writing() as db:
            tick = clock.update().values(number=clock.c.number + 1).returning(clock.c.number)
            writing = Writing(db, Change(db.execute(tick).scalar_one(), kind, tenant, name))
            yield writing
            if writing.is_change:
                _record(db, writing.change)
            else:
                db.execute(clock.update().values(number=clock.c.number - 1))
        if writing.is_change:
            self._tell([writing.change])

    def _tell(self, found: Sequence[Change] | None) -> None:
        for listener in self._listeners:
            listener(found)


@dataclass(slots=True)
class Writing:
    """A transaction under way, and the change that it will be unless *is_change* is cleared."""

    db: sa.Connection
    change: Change
    is_change: bool = True

    @property
    def number(self) -> int:
        return self.change.number


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
