"""
API keys as rows. A row holds the key's HMAC, never the key: a stolen database opens nothing.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

import sqlalchemy as sa

from galenic_adapters.audit import note
from galenic_adapters.database import Database
from galenic_adapters.errors import Conflict, NotFound
from galenic_adapters.refs import check_name
from galenic_adapters.tables import api_keys


class Role(StrEnum):
    ADMIN = "admin"
    TENANT_ADMIN = "tenant-admin"
    CALLER = "caller"


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as the database knows it; the secret itself is nowhere."""

    id: str
    tenant: str
    role: Role
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None


class SqlKeys:
    """The part of the store that knows who may ask."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str) -> Self:
        """The store at ``sqlite:///file`` or ``postgresql://…``, its tables brought up to date."""
        return cls(Database.open(url))

    def close(self) -> None:
        self._database.close()

    def add_key(
        self, tenant: str, role: Role, hmac_sha256: str, *, expires: datetime | None = None
    ) -> Key:
        """Remember a key by its HMAC (64 hex digits)."""
        key = Key(secrets.token_hex(8), check_name("tenant", tenant), Role(role), _now(), expires)
        row = {
            "id": key.id,
            "tenant": tenant,
            "role": key.role.value,
            "hmac_sha256": hmac_sha256,
            "created": key.created,
            "expires": expires,
        }
        with self._database.writing() as db:
            note(key=key.id, role=key.role.value, of=tenant)
            if not self._database.insert_new(db, api_keys, row):
                raise Conflict("this key exists already")
        return key

    def find_key(self, hmac_sha256: str) -> Key:
        """The key of that HMAC; a revoked or expired one is `NotFound`."""
        query = sa.select(*KEY).where(
            api_keys.c.hmac_sha256 == hmac_sha256,
            api_keys.c.revoked.is_(None),
            sa.or_(api_keys.c.expires.is_(None), api_keys.c.expires > _now()),
        )
        with self._database.reading() as db:
            row = db.execute(query).first()
        if row is None:
            raise NotFound("no such key")
        return _key(row)

    def list_keys(self, tenant: str | None = None) -> list[Key]:
        """Every key of *tenant*, or of all, oldest first; revoked ones too."""
        query = sa.select(*KEY).order_by(api_keys.c.created, api_keys.c.id)
        if tenant is not None:
            query = query.where(api_keys.c.tenant == tenant)
        with self._database.reading() as db:
            return [_key(row) for row in db.execute(query)]

    def revoke_key(self, key_id: str, *, tenant: str | None = None) -> None:
        """The key opens nothing from now on. With *tenant*, only where it is that tenant's."""
        change = api_keys.update().where(api_keys.c.id == key_id)
        if tenant is not None:
            change = change.where(api_keys.c.tenant == tenant)
        first = sa.func.coalesce(api_keys.c.revoked, sa.literal(_now(), api_keys.c.revoked.type))
        with self._database.writing() as db:
            note(key=key_id)
            if not db.execute(change.values(revoked=first)).rowcount:
                raise NotFound("no such key")


KEY = [c for c in api_keys.c if c.name != "hmac_sha256"]


def _now() -> datetime:
    return datetime.now(UTC)


def _key(row: Any) -> Key:
    return Key(row.id, row.tenant, Role(row.role), row.created, row.expires, row.revoked)
