"""
Registers the servers on one database, with the last change that each has seen.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from galenic_adapters.errors import NotFound
from galenic_server.database.changes import now
from galenic_server.database.database import Database
from galenic_server.database.tables import replicas


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """
    Describes a replica to the others.

    heard: the time of its last report.   seen: the number of the last change that it has seen.
    """

    id: str
    place: str
    started: datetime
    heard: datetime
    seen: int


class Replicas:
    """Registers replicas, and says which of them a change has reached."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def enter(self, place: str, seen: int) -> str:
        """Register a replica at *place*, instead of an earlier one there; return its id."""
        row = {"id": secrets.token_hex(8), "place": place, "seen": seen}
        with self._database.writing() as db:
            db.execute(replicas.delete().where(replicas.c.place == place))
            db.execute(replicas.insert().values(row | {"started": now(), "heard": now()}))
        return str(row["id"])

    def report(self, replica: str, seen: int) -> bool:
        """Report that it lives and has seen *seen*; returns False if it was removed or replaced."""
        change = replicas.update().where(replicas.c.id == replica)
        with self._database.writing(is_act=False) as db:
            return bool(db.execute(change.values(seen=seen, heard=now())).rowcount)

    def leave(self, replica: str) -> None:
        """Remove it, so that no change waits for it any more. Raises `NotFound`."""
        with self._database.writing() as db:
            if not db.execute(replicas.delete().where(replicas.c.id == replica)).rowcount:
                raise NotFound("no such replica")

    def leave_silent(self, seconds: float) -> None:
        """Remove all that have not reported for so long."""
        silent = replicas.c.heard < now() - timedelta(seconds=seconds)
        with self._database.writing() as db:
            db.execute(replicas.delete().where(silent))

    def all(self) -> list[ReplicaRow]:
        """Return the replicas, the oldest first."""
        with self._database.reading() as db:
            rows = db.execute(sa.select(replicas).order_by(replicas.c.started)).all()
        return [ReplicaRow(*row) for row in rows]

    def behind(self, number: int) -> list[str]:
        """Return the ids of the replicas that have not seen that change yet."""
        query = sa.select(replicas.c.id).where(replicas.c.seen < number)
        with self._database.reading() as db:
            return sorted(db.scalars(query))

    def seen_by_all(self) -> float:
        """Return the number of the last converged change; infinity if there is no replica."""
        with self._database.reading() as db:
            least: int | None = db.scalar(sa.select(sa.func.min(replicas.c.seen)))
        return float("inf") if least is None else least
