"""
Records uploads by idempotency key: a key makes one version, however often it is sent.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from galenic_adapters.errors import BadInput, Fault, NotFound
from galenic_adapters.refs import AdapterRef, check_name
from galenic_server.database.changes import now
from galenic_server.database.database import Database
from galenic_server.database.tables import uploads


class State(StrEnum):
    """Names the progress of a version, or of the upload that makes it."""

    RECEIVED = "received"  # all bytes have arrived, and are not checked yet
    CHECKED = "checked"  # every check has passed, and the version is written
    READY = "ready"  # every replica knows it
    FAILED = "failed"  # refused, with its faults; nothing was written


@dataclass(frozen=True, slots=True)
class Upload:
    """
    Describes an upload and its outcome.

    id: its Idempotency-Key.   ref: the version that it made.   digest: of the bytes sent.
    """

    tenant: str
    id: str
    name: str
    digest: str
    state: State
    created: datetime
    ref: AdapterRef | None = None
    faults: tuple[Fault, ...] = ()


class Uploads:
    """Stores uploads and their outcome; none of it is part of an audited act."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def receive(self, tenant: str, id_: str, name: str, version: int | None, digest: str) -> Upload:
        """
        Record an upload, or return the earlier one with that key.

        Raises `BadInput` if the key was used for another body, name or version.
        """
        row = {
            "tenant": check_name("tenant", tenant),
            "id": _checked(id_),
            "name": check_name("adapter", name),
            "asked_version": version,
            "digest": digest,
            "state": State.RECEIVED.value,
            "created": now(),
        }
        with self._database.writing(is_act=False) as db:
            self._database.insert_new(db, uploads, row)
            found = db.execute(sa.select(uploads).where(_is(tenant, id_))).one()
        if (found.digest, found.name, found.asked_version) != (digest, name, version):
            raise BadInput("idempotency-key", "was used before, for another upload than this")
        return _upload(found)

    def fail(self, tenant: str, id_: str, faults: Iterable[Fault]) -> None:
        """Record that it was refused. If it is sent again under its key, it is checked again."""
        text = json.dumps([[fault.path, fault.problem] for fault in faults])
        change = uploads.update().where(_is(tenant, id_))
        with self._database.writing(is_act=False) as db:
            db.execute(change.values(state=State.FAILED.value, faults=text))

    def get(self, tenant: str, id_: str) -> Upload:
        with self._database.reading() as db:
            row = db.execute(sa.select(uploads).where(_is(tenant, id_))).first()
        if row is None:
            raise NotFound("no such upload")
        return _upload(row)

    def newest(self, tenant: str, limit: int = 100) -> list[Upload]:
        """Return the tenant's last uploads, the newest first."""
        query = sa.select(uploads).where(uploads.c.tenant == tenant)
        query = query.order_by(uploads.c.created.desc(), uploads.c.id).limit(limit)
        with self._database.reading() as db:
            return [_upload(row) for row in db.execute(query)]

    def forget(self, older: timedelta) -> None:
        """Drop the records that are older, so that their keys are free; the versions stay."""
        with self._database.writing(is_act=False) as db:
            db.execute(uploads.delete().where(uploads.c.created < now() - older))

    # For `Versions`, within its transactions

    def made_by(self, db: sa.Connection, tenant: str, id_: str) -> AdapterRef | None:
        """Return the version that this upload has made, here or on another replica, if any."""
        row = db.execute(sa.select(uploads).where(_is(tenant, id_))).first()
        return None if row is None else _upload(row).ref

    def settle(self, db: sa.Connection, id_: str, ref: AdapterRef) -> None:
        """Record that the upload has made *ref*."""
        change = uploads.update().where(_is(ref.tenant, id_))
        db.execute(change.values(state=State.CHECKED.value, version=ref.version, faults="[]"))


def _checked(id_: str) -> str:
    if not (1 <= len(id_) <= 128 and id_.isascii() and id_.isprintable()):
        raise BadInput("idempotency-key", "is not 1 to 128 printable ASCII characters")
    return id_


def _is(tenant: str, id_: str) -> sa.ColumnElement[bool]:
    return sa.and_(uploads.c.tenant == tenant, uploads.c.id == id_)


def _upload(row: Any) -> Upload:
    ref = AdapterRef(row.tenant, row.name, row.version) if row.version else None
    faults = tuple(Fault(*fault) for fault in json.loads(row.faults))
    return Upload(
        row.tenant, row.id, row.name, row.digest, State(row.state), row.created, ref, faults
    )
