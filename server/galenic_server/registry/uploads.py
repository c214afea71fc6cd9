"""
Uploads, each under a key of its sender's: sent twice it makes one version; what failed says why.
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
from galenic_server.database.tables import uploads
from galenic_server.registry.shares import SqlShares


class State(StrEnum):
    """How far a version, or the upload that brings it, has come."""

    RECEIVED = "received"  # the bytes are here whole, and nothing else is known
    CHECKED = "checked"  # written: every check passed
    READY = "ready"  # every replica knows it
    FAILED = "failed"  # refused, with its faults; nothing was written


@dataclass(frozen=True, slots=True)
class Upload:
    """id: its sender's Idempotency-Key. ref: the version it made. digest: of the bytes sent."""

    tenant: str
    id: str
    name: str
    digest: str
    state: State
    created: datetime
    ref: AdapterRef | None = None
    faults: tuple[Fault, ...] = ()


class SqlUploads(SqlShares):
    """The part of the store that remembers uploads."""

    def receive(self, tenant: str, id_: str, name: str, version: int | None, digest: str) -> Upload:
        """
        The upload of that key, a new one or the one that is known.

        Raises `BadInput` where the key was used for another body or another name.
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
        """It was refused. Sent again under its key, it is checked again."""
        told = json.dumps([[fault.path, fault.problem] for fault in faults])
        change = uploads.update().where(_is(tenant, id_))
        with self._database.writing(is_act=False) as db:
            db.execute(change.values(state=State.FAILED.value, faults=told))

    def upload(self, tenant: str, id_: str) -> Upload:
        with self._database.reading() as db:
            row = db.execute(sa.select(uploads).where(_is(tenant, id_))).first()
        if row is None:
            raise NotFound("no such upload")
        return _upload(row)

    def uploads(self, tenant: str, limit: int = 100) -> list[Upload]:
        """The tenant's newest, newest first."""
        query = sa.select(uploads).where(uploads.c.tenant == tenant)
        query = query.order_by(uploads.c.created.desc(), uploads.c.id).limit(limit)
        with self._database.reading() as db:
            return [_upload(row) for row in db.execute(query)]

    def forget_uploads(self, older: timedelta) -> None:
        """Their keys may be used anew; the versions stay."""
        with self._database.writing(is_act=False) as db:
            db.execute(uploads.delete().where(uploads.c.created < now() - older))

    def _made_by(self, db: sa.Connection, tenant: str, id_: str) -> AdapterRef | None:
        """The version that this upload has made, perhaps a moment ago on another replica."""
        row = db.execute(sa.select(uploads).where(_is(tenant, id_))).first()
        return None if row is None else _upload(row).ref

    def _settle(self, db: sa.Connection, id_: str, ref: AdapterRef) -> None:
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
