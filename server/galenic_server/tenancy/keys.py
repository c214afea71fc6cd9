"""
Stores API keys. A row holds the key's HMAC, never the key, so a stolen database opens nothing.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from galenic_adapters.errors import BadInput, Conflict, NotFound
from galenic_adapters.refs import check_name
from galenic_server.audit.chain import note
from galenic_server.database.changes import Changes, Kind, now
from galenic_server.database.tables import api_keys, tenants
from galenic_server.tenancy.tenants import NOT_SUSPENDED, Tenants


class Role(StrEnum):
    """Says what a key opens, the most powerful first."""

    ADMIN = "admin"  # everything
    TENANT_ADMIN = "tenant-admin"  # its own tenant
    CALLER = "caller"  # answers
    AUDITOR = "auditor"  # audit rows: its tenant's, or all in the tenant galenic
    METRICS = "metrics"  # the metrics


@dataclass(frozen=True, slots=True)
class Key:
    """Describes an API key; the secret itself is stored nowhere."""

    id: str
    tenant: str
    role: Role
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None
    label: str = ""
    replaced_by: str | None = None


class Keys:
    """Keeps API keys. Methods that take a *tenant* raise `NotFound` for another tenant's key."""

    def __init__(self, changes: Changes, tenants: Tenants) -> None:
        self._changes = changes
        self._database = changes.database
        self._tenants = tenants

    def add(
        self,
        tenant: str,
        role: Role,
        hmac_sha256: str,
        *,
        expires: datetime | None = None,
        label: str = "",
    ) -> Key:
        """Store a key by its HMAC (64 hex digits). *label*: one line, for people."""
        if len(label) > 100 or not (label.isprintable() or not label):
            raise BadInput("label", "is not one line of at most 100 characters")
        key = Key(
            secrets.token_hex(8),
            check_name("tenant", tenant),
            Role(role),
            now(),
            expires,
            label=label,
        )
        with self._changes.writing(Kind.KEY, tenant, key.id) as writing:
            note(key=key.id, role=key.role.value, of=tenant)
            self._tenants.ensure(writing.db, tenant)
            self._insert(writing.db, key, hmac_sha256)
        return key

    def rotate(
        self,
        key_id: str,
        hmac_sha256: str,
        *,
        grace: timedelta,
        expires: datetime | None = None,
        tenant: str | None = None,
    ) -> Key:
        """
        Create a new key for the holder of *key_id*, which stays valid for *grace*.

        Without *expires* it lasts as long as the old one was made for.
        Raises `NotFound` if that was revoked, `Conflict` if it has expired or was rotated.
        """
        with self._changes.writing(Kind.KEY, tenant or "", key_id) as writing:
            old = _unrevoked(writing.db, key_id, tenant)
            if old.replaced_by is not None:
                raise Conflict(f"key {key_id} was replaced by {old.replaced_by} already")
            if old.expires is not None and old.expires <= now():
                raise Conflict(f"key {key_id} has ended; make a new one")
            made = now()
            ends = expires or (old.expires and made + (old.expires - old.created))
            new = Key(secrets.token_hex(8), old.tenant, old.role, made, ends, label=old.label)
            self._insert(writing.db, new, hmac_sha256)
            until = min(filter(None, (old.expires, now() + grace)))
            ending = api_keys.update().where(api_keys.c.id == key_id)
            writing.db.execute(ending.values(replaced_by=new.id, expires=until))
            note(key=key_id, new=new.id, of=old.tenant, expires=until.isoformat())
        return new

    def expire(self, key_id: str, at: datetime, *, tenant: str | None = None) -> Key:
        """Let the key expire at *at*; raises `BadInput` if that is later than it would now."""
        with self._changes.writing(Kind.KEY, tenant or "", key_id) as writing:
            was = _unrevoked(writing.db, key_id, tenant)
            if was.expires is not None and at > was.expires:
                raise BadInput("expires", "is later than the key's own end; rotate it instead")
            ending = api_keys.update().where(api_keys.c.id == key_id)
            writing.db.execute(ending.values(expires=at))
            note(key=key_id, expires=at.isoformat())
            return replace(was, expires=at)

    def find(self, hmac_sha256: str) -> Key:
        """
        Return the key of that HMAC.

        Raises `NotFound` if there is none, or it is revoked, expired or a suspended tenant's.
        """
        query = sa.select(*KEY).join(tenants, tenants.c.name == api_keys.c.tenant)
        query = query.where(api_keys.c.hmac_sha256 == hmac_sha256, _opens(), NOT_SUSPENDED)
        with self._database.reading() as db:
            row = db.execute(query).first()
        if row is None:
            raise NotFound("no such key")
        return _key(row)

    def page(
        self, tenant: str | None = None, *, after: str | None = None, limit: int = 100
    ) -> list[Key]:
        """
        Return *limit* keys of *tenant*, or of all, the oldest first; revoked ones too.

        They begin after the key *after*; raises `NotFound` if there is no such key.
        """
        query = sa.select(*KEY).order_by(*AGE).limit(limit)
        if tenant is not None:
            query = query.where(api_keys.c.tenant == tenant)
        with self._database.reading() as db:
            if after is not None:
                last = _one(db, _is(after, tenant))
                query = query.where(sa.tuple_(*AGE) > sa.tuple_(*_age(last)))
            return [_key(row) for row in db.execute(query)]

    def has_open(self, tenant: str, role: Role) -> bool:
        """Tell whether the tenant has a valid key of that role."""
        is_its = sa.and_(api_keys.c.tenant == tenant, api_keys.c.role == role.value)
        query = sa.select(sa.exists().where(is_its, _opens()))
        with self._database.reading() as db:
            return bool(db.scalar(query))

    def revoke(self, key_id: str, *, tenant: str | None = None) -> None:
        """Revoke the key at once; raises `NotFound`."""
        first = sa.func.coalesce(api_keys.c.revoked, sa.literal(now(), api_keys.c.revoked.type))
        change = api_keys.update().where(_is(key_id, tenant)).values(revoked=first)
        with self._changes.writing(Kind.KEY, tenant or "", key_id[:64]) as writing:
            note(key=key_id)
            if not writing.db.execute(change).rowcount:
                raise NotFound("no such key")

    def _insert(self, db: sa.Connection, key: Key, hmac_sha256: str) -> None:
        row = {
            "id": key.id,
            "tenant": key.tenant,
            "role": key.role.value,
            "hmac_sha256": hmac_sha256,
            "created": key.created,
            "expires": key.expires,
            "label": key.label,
        }
        if not self._database.insert_new(db, api_keys, row):
            raise Conflict("this key exists already")


KEY = [c for c in api_keys.c if c.name != "hmac_sha256"]
AGE = (api_keys.c.created, api_keys.c.id)


def _age(key: Key) -> Iterator[sa.ColumnElement[Any]]:
    """Yield the position of *key* in the order by `AGE`."""
    for column, value in zip(AGE, (key.created, key.id), strict=True):
        yield sa.literal(value, column.type)


def _opens() -> sa.ColumnElement[bool]:
    lasts = sa.or_(api_keys.c.expires.is_(None), api_keys.c.expires > now())
    return sa.and_(api_keys.c.revoked.is_(None), lasts)


def _is(key_id: str, tenant: str | None) -> sa.ColumnElement[bool]:
    named = api_keys.c.id == key_id
    return named if tenant is None else sa.and_(named, api_keys.c.tenant == tenant)


def _unrevoked(db: sa.Connection, key_id: str, tenant: str | None) -> Key:
    return _one(db, _is(key_id, tenant), api_keys.c.revoked.is_(None))


def _one(db: sa.Connection, *where: sa.ColumnElement[bool]) -> Key:
    row = db.execute(sa.select(*KEY).where(*where)).first()
    if row is None:
        raise NotFound("no such key")
    return _key(row)


def _key(row: Any) -> Key:
    return Key(
        row.id,
        row.tenant,
        Role(row.role),
        row.created,
        row.expires,
        row.revoked,
        row.label,
        row.replaced_by,
    )
