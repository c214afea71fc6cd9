"""
The audit log as a chain: each row's MAC covers the row before, so tampering is detected.

A row holds its record as canonical JSON, and an HMAC-SHA-256 of it under a key that is not in the
database. The record holds the row's number and the previous row's MAC. The head, a row beside the
chain, states under a seal of its own where the chain ends, so rows cannot be cut off its end
unnoticed. Restoring an old head together with its rows cannot be detected from the database alone:
heads are logged and kept beside the secret (`witness`), and the chain has to hold a known one.

Rows that were archived are no longer there. A second sealed head, the base, says where the rest
begins.

The head's row is also the lock: replicas on one database append to the chain one after the other.
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
END, BASE = 1, 2
"""The rows of the heads' table: where the chain ends, and where it begins after an archive."""


class Tampered(GalenicError):
    """Says that the chain was tampered with, and where it breaks."""


@dataclass(frozen=True, slots=True)
class Head:
    """Holds a chain's number of rows and its last row's MAC."""

    number: int
    mac: str

    def __str__(self) -> str:
        return f"{self.number}:{self.mac}"

    @classmethod
    def parse(cls, text: str) -> "Head":
        number, _, mac = text.partition(":")
        if not number.isdecimal():
            raise Tampered("a head is written as NUMBER:MAC, as in the log")
        return cls(int(number), mac)


NONE = Head(0, "")
"""The head of a chain without rows."""


@dataclass(slots=True)
class Act:
    """Describes who does what; transactions written meanwhile commit with its record."""

    record: Record
    num_written: int = 0
    facts: Record = field(default_factory=dict)

    def row(self, **more: Any) -> Record:
        """Return the record with notes merged in; notes cannot overwrite the actor's fields."""
        return {**self.facts, **self.record, **more}


_act: ContextVar[Act | None] = ContextVar("act", default=None)


@contextmanager
def acting(record: Record) -> Iterator[Act]:
    """Attribute what is written in the block, also by threads started in it, to this act."""
    act = Act(record)
    token = _act.set(act)
    try:
        yield act
    finally:
        _act.reset(token)


def under_way() -> Record:
    """Return the current act's record, to continue the act after its request is answered."""
    act = _act.get()
    return {} if act is None else act.record


def note(**facts: Any) -> None:
    """Add names and digests, never text, to the current act's record, if there is one."""
    if act := _act.get():
        act.facts.update(facts)


class Chain:
    """
    Appends and verifies the audit rows of one database.

    secrets: the server's; the first one seals, and what any of them sealed is whole.   seen: a head
    that the chain had. It never becomes shorter than it was seen.
    """

    def __init__(self, database: Database, *secrets: bytes, seen: Head = NONE) -> None:
        self._database = database
        self._keys = [hmac.digest(secret, b"galenic audit", "sha256") for secret in secrets]
        self._seen = seen
        database.before_commit = self._commit_act

    def begin(self) -> None:
        """
        Write the first row if there is none, so that an empty chain is one that was cut off.

        Raises `Tampered` if the chain is shorter than it was seen.
        """
        with self._database.writing() as db:
            is_new = self._head(db, END, is_locked=True) == NONE
            self._append(db, [{"action": "begin", "actor": "server"}] if is_new else [])

    def append(self, records: Sequence[Record]) -> Head:
        """Append *records* in order, all or none; they are committed when this returns."""
        with self._database.writing() as db:
            return self._append(db, records)

    def head(self) -> Head:
        """Return the current end of the chain, with its seal verified."""
        seen = self._seen  # before reading: another thread may append meanwhile
        with self._database.reading() as db:
            return _checked(self._head(db, END), seen)

    def rows(self, after: int = 0) -> Iterator[tuple[Record, str]]:
        """Yield records with their MACs, from the first row after number *after*."""
        return ((json.loads(record), mac) for _, record, mac in self._raw(after))

    def latest(self, num: int) -> list[Record]:
        """Return the last *num* records, the newest first; they are not verified."""
        query = sa.select(audit.c.record).order_by(audit.c.number.desc()).limit(num)
        with self._database.reading() as db:
            return [json.loads(record) for record in db.scalars(query)]

    def verify(self, known: Head | None = None) -> Head:
        """
        Read the whole chain; return its head.

        *known* is a head noted elsewhere, which the chain has to hold. Raises `Tampered`.
        """
        until = self.head()
        if until == NONE:
            raise Tampered("the chain has no row, and a server writes one when it first starts")
        with self._database.reading() as db:
            last = self._head(db, BASE)
        for number, record, mac in self._raw():
            last = self.follows(last, number, record, mac)
            if known and known.number == number and known.mac != mac:
                raise Tampered(f"row {number} is not the one that was noted")
            if last.number == until.number and last != until:
                raise Tampered(f"row {number} is not the one that the head names")
        if last.number < until.number:  # more rows may have been appended meanwhile
            raise Tampered(f"the chain ends at row {last.number}, its head says {until.number}")
        if last.number > self.head().number:  # which is committed with its row
            raise Tampered(f"the chain goes on to row {last.number}, beyond its head")
        if known and known.number > last.number:
            raise Tampered(f"the chain has {last.number} rows, {known.number} were noted")
        return last

    def cut(self, through: Head, record: Record) -> None:
        """Append *record*, and delete all rows up to *through*, which becomes the base."""
        with self._database.writing() as db:
            self._append(db, [record])
            self._put(db, BASE, through)
            db.execute(audit.delete().where(audit.c.number <= through.number))

    def seal_archive(self, last: Head, digest: str) -> str:
        return self._mac(f"archive {last} {digest}")

    def is_archive(self, last: Head, digest: str, seal: str) -> bool:
        """Tell whether *seal* is that of an archive of these lines, by one of the secrets."""
        return self._is_mac(seal, f"archive {last} {digest}")

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

    def follows(self, last: Head, number: int, record: str, mac: str) -> Head:
        """Return the head after this row; raises `Tampered` unless it follows *last*."""
        if number != last.number + 1:
            raise Tampered(f"row {last.number + 1} is not there")
        if not self._is_mac(mac, record):
            raise Tampered(f"row {number} was changed")
        fields = json.loads(record)
        if (fields["number"], fields["previous"]) != (number, last.mac):
            raise Tampered(f"row {number} does not follow row {last.number}")
        return Head(number, mac)

    def _append(self, db: sa.Connection, records: Sequence[Record]) -> Head:
        head = self._seen = _checked(self._head(db, END, is_locked=True), self._seen)
        rows = []
        for record in records:
            head, text = self._next(head, record)
            rows.append({"number": head.number, "record": text, "mac": head.mac})
        if rows:
            db.execute(audit.insert(), rows)
            self._put(db, END, head)
        return head

    def _next(self, head: Head, record: Record) -> tuple[Head, str]:
        moment = {"at": datetime.now(UTC).isoformat()} | record
        text = canonical(moment | {"number": head.number + 1, "previous": head.mac})
        return Head(head.number + 1, self._mac(text)), text

    def _head(self, db: sa.Connection, id_: int, *, is_locked: bool = False) -> Head:
        """Return the end or the base, with its seal verified; `NONE` before the first row."""
        query = sa.select(audit_head).where(audit_head.c.id == id_)
        row = db.execute(query.with_for_update() if is_locked else query).first()
        if row is None and id_ == BASE:
            return NONE
        if row is None:
            raise Tampered("the head of the chain is not there")
        head = Head(row.number, row.mac)
        if (head, row.seal) == (NONE, ""):
            if db.execute(sa.select(audit.c.number).limit(1)).first():
                raise Tampered("the head says that there are no rows, and there are some")
        elif not self._is_mac(row.seal, _sealed(id_, head)):
            raise Tampered(f"the head at row {head.number} has a seal that is not this server's")
        return head

    def _put(self, db: sa.Connection, id_: int, head: Head) -> None:
        seal = self._mac(_sealed(id_, head))
        sealed = {"number": head.number, "mac": head.mac, "seal": seal}
        insert = self._database.insert(audit_head).values(id=id_, **sealed)
        db.execute(insert.on_conflict_do_update(index_elements=["id"], set_=sealed))

    def _commit_act(self, db: sa.Connection) -> None:
        """Append the current act's record to its transaction, so that both commit or neither."""
        act = _act.get()
        if act is None:
            return
        self._append(db, [act.row(outcome="done")])
        act.num_written += 1

    def _mac(self, text: str) -> str:
        return _mac(self._keys[0], text)

    def _is_mac(self, mac: str, text: str) -> bool:
        return any(hmac.compare_digest(mac, _mac(key, text)) for key in self._keys)


def _mac(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _sealed(id_: int, head: Head) -> str:
    return f"{'base' if id_ == BASE else 'head'} {head}"


def _checked(head: Head, seen: Head) -> Head:
    """Return *head*; raises `Tampered` if the chain was longer, or another, when it was *seen*."""
    if head.number < seen.number or (head.number == seen.number and head != seen):
        raise Tampered(f"the chain was seen at row {seen.number}, and ends at {head.number} now")
    return head


def canonical(record: Record) -> str:
    """Serialize *record* in its one canonical form: sorted, without spaces, in ASCII."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
