"""
Who did what, as a chain: each row's MAC covers the row before it, so none can be changed, dropped
or moved unseen.

A row is its record as canonical JSON, and HMAC-SHA-256 over that under a key that the database does
not hold; the record names the row's number and the MAC before it. The head, one row beside the
chain, says under a seal of its own where the chain ends: whoever cuts rows off its end cannot seal
the shorter one. An old head put back together with its rows is found by nothing inside the
database, so heads are logged, and `Chain.verify` can be told one.

The head's row is also the lock: replicas on one database append to one chain, one after the other.
"""

import hashlib
import hmac
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from galenic_adapters.errors import GalenicError
from galenic_server.database.database import Database
from galenic_server.database.tables import audit, audit_head

Record = dict[str, Any]
PAGE = 1000
ONLY = audit_head.c.id == 1


class Tampered(GalenicError):
    """The chain is not what was written; the message says where it breaks."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends: how many rows it has, and the last one's MAC."""

    number: int
    mac: str

    def __str__(self) -> str:
        return f"{self.number}:{self.mac}"

    @classmethod
    def parse(cls, text: str) -> "Head":
        number, _, mac = text.partition(":")
        if not number.isdecimal():
            raise Tampered("a head is told as NUMBER:MAC, as the log has it")
        return cls(int(number), mac)


@dataclass(slots=True)
class Act:
    """Something that somebody does; the transactions that it writes carry its record."""

    record: Record
    num_written: int = 0
    facts: Record = field(default_factory=dict)

    def told(self, **more: Any) -> Record:
        """Who acted stands, whatever was noted."""
        return {**self.facts, **self.record, **more}


_act: ContextVar[Act | None] = ContextVar("act", default=None)


@contextmanager
def acting(record: Record) -> Iterator[Act]:
    """What is written inside belongs to this act, in threads started from here too."""
    act = Act(record)
    token = _act.set(act)
    try:
        yield act
    finally:
        _act.reset(token)


def under_way() -> Record:
    """Whose act it is, to go on with when its request is answered already."""
    act = _act.get()
    return {} if act is None else act.record


def note(**facts: Any) -> None:
    """Add to the record of the act under way, if there is one: names and digests, never a text."""
    if act := _act.get():
        act.facts.update(facts)


class Chain:
    """The audit rows of one database."""

    def __init__(self, database: Database, secret: bytes) -> None:
        self._database = database
        self._key = hmac.new(secret, b"galenic audit", hashlib.sha256).digest()
        database.before_commit = self._commit_act

    def append(self, records: Sequence[Record]) -> Head:
        """Write *records* in their order, all or none; their rows are there when this returns."""
        with self._database.writing() as db:
            return self._append(db, records)

    def head(self) -> Head:
        """Where the chain ends just now, its seal checked."""
        with self._database.reading() as db:
            return self._sealed_head(db)

    def rows(self, after: int = 0) -> Iterator[tuple[Record, str]]:
        """Each record with its MAC, from the one *after* that number."""
        return ((json.loads(record), mac) for _, record, mac in self._raw(after))

    def latest(self, num: int) -> list[Record]:
        """The last *num* records, the newest first; they are not verified."""
        query = sa.select(audit.c.record).order_by(audit.c.number.desc()).limit(num)
        with self._database.reading() as db:
            return [json.loads(record) for record in db.scalars(query)]

    def verify(self, known: Head | None = None) -> Head:
        """
        Read the whole chain; return its head.

        *known* is a head noted elsewhere, which the chain has to hold. Raises `Tampered`.
        """
        until = self.head()
        last = Head(0, "")
        for number, record, mac in self._raw():
            last = self._follows(last, number, record, mac)
            if known and known.number == number and known.mac != mac:
                raise Tampered(f"row {number} is not the one that was noted")
            if last.number == until.number and last != until:
                raise Tampered(f"row {number} is not the one that the head names")
        if last.number < until.number:  # more are only those that were written meanwhile
            raise Tampered(f"the chain ends at row {last.number}, its head says {until.number}")
        if known and known.number > last.number:
            raise Tampered(f"the chain has {last.number} rows, {known.number} were noted")
        return last

    def _raw(self, after: int | None = None) -> Iterator[tuple[int, str, str]]:
        query = sa.select(audit).order_by(audit.c.number).limit(PAGE)
        while True:
            with self._database.reading() as db:
                page = db.execute(query if after is None else query.where(audit.c.number > after))
                rows = [(row.number, row.record, row.mac) for row in page]
            yield from rows
            if len(rows) < PAGE:
                return
            after = rows[-1][0]

    def _follows(self, last: Head, number: int, record: str, mac: str) -> Head:
        if number != last.number + 1:
            raise Tampered(f"row {last.number + 1} is not there")
        if not hmac.compare_digest(mac, self._mac(record)):
            raise Tampered(f"row {number} was changed")
        told = json.loads(record)
        if (told["number"], told["previous"]) != (number, last.mac):
            raise Tampered(f"row {number} does not follow row {last.number}")
        return Head(number, mac)

    def _append(self, db: sa.Connection, records: Sequence[Record]) -> Head:
        head = self._sealed_head(db, is_locked=True)
        rows = []
        for record in records:
            head, text = self._next(head, record)
            rows.append({"number": head.number, "record": text, "mac": head.mac})
        if rows:
            db.execute(audit.insert(), rows)
            seal = self._seal(head)
            values = {"number": head.number, "mac": head.mac, "seal": seal}
            db.execute(audit_head.update().where(ONLY).values(values))
        return head

    def _next(self, head: Head, record: Record) -> tuple[Head, str]:
        moment = {"at": datetime.now(UTC).isoformat()} | record
        text = _canonical(moment | {"number": head.number + 1, "previous": head.mac})
        return Head(head.number + 1, self._mac(text)), text

    def _sealed_head(self, db: sa.Connection, *, is_locked: bool = False) -> Head:
        query = sa.select(audit_head).where(ONLY)
        row = db.execute(query.with_for_update() if is_locked else query).first()
        if row is None:
            raise Tampered("the head of the chain is not there")
        head = Head(row.number, row.mac)
        if head.number and not hmac.compare_digest(row.seal, self._seal(head)):
            raise Tampered(f"the head at row {head.number} has a seal that is not this server's")
        return head

    def _commit_act(self, db: sa.Connection) -> None:
        """Whatever a transaction of an act writes is written with its record, or not at all."""
        act = _act.get()
        if act is None:
            return
        self._append(db, [act.told(outcome="done")])
        act.num_written += 1

    def _mac(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def _seal(self, head: Head) -> str:
        return self._mac(f"head {head}")


def _canonical(record: Record) -> str:
    """One text for one record: sorted, without spaces, plain ASCII."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
