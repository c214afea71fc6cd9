"""
Tenants as rows: what each may keep and what it keeps, and whether its keys open anything.

A tenant is there from its first key or adapter on; nobody has to make one first.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from galenic_adapters.errors import NotFound, QuotaExceeded
from galenic_adapters.refs import NAME, SHARED, check_name
from galenic_server.audit.chain import note
from galenic_server.database.changes import Kind, SqlChanges, now
from galenic_server.database.database import Database
from galenic_server.database.tables import tenants


@dataclass(frozen=True, slots=True)
class Quota:
    """How many versions, and how many bytes of them; none for no bound."""

    max_adapters: int | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Tenant:
    """quota: its own, where it differs from the server's. Deleted versions count until purged."""

    name: str
    created: datetime
    suspended: datetime | None
    quota: Quota
    num_adapters: int
    num_bytes: int


class SqlTenants(SqlChanges):
    """The part of the store that knows the tenants."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.default_quota = Quota()

    def set_tenant(
        self, name: str, *, quota: Quota | None = None, is_suspended: bool = False
    ) -> Tenant:
        """Make the tenant, or change it. A suspended one's keys open nothing."""
        quota = quota or Quota()
        with self._changing(Kind.TENANT, check_name("tenant", name)) as writing:
            note(
                of=name,
                max_adapters=quota.max_adapters,
                max_bytes=quota.max_bytes,
                suspended=is_suspended,
            )
            self._ensure_tenant(writing.db, name)
            since = sa.func.coalesce(tenants.c.suspended, sa.literal(now(), MOMENT))
            change = tenants.update().where(tenants.c.name == name)
            writing.db.execute(
                change.values(
                    suspended=since if is_suspended else None,
                    max_adapters=quota.max_adapters,
                    max_bytes=quota.max_bytes,
                )
            )
        return self.tenant(name)

    def tenant(self, name: str) -> Tenant:
        query = sa.select(tenants).where(tenants.c.name == name)
        with self._database.reading() as db:
            row = db.execute(query).first() if NAME.fullmatch(name) else None
        if row is None:
            raise NotFound(f"no tenant {name[:80]!r}")
        return tenant_of(row)

    def tenants(self, *, after: str | None = None, limit: int = 100) -> list[Tenant]:
        """*limit* of them by name, from the one *after*."""
        query = sa.select(tenants).order_by(tenants.c.name).limit(limit)
        if after is not None:
            query = query.where(tenants.c.name > after)
        with self._database.reading() as db:
            return [tenant_of(row) for row in db.execute(query)]

    def check_room(self, name: str, num_bytes: int) -> None:
        """Raises `QuotaExceeded` where one adapter more of that size would be too much."""
        with suppress(NotFound):
            kept = self.tenant(name)
            after = replace(
                kept, num_adapters=kept.num_adapters + 1, num_bytes=kept.num_bytes + num_bytes
            )
            self._check_quota(after)

    def is_open(self, name: str) -> bool:
        """Whether there is such a tenant, and it is not suspended."""
        query = sa.select(tenants.c.name).where(tenants.c.name == name, NOT_SUSPENDED)
        with self._database.reading() as db:
            return NAME.fullmatch(name) is not None and db.execute(query).first() is not None

    def _ensure_tenant(self, db: sa.Connection, name: str) -> None:
        self._database.insert_new(db, tenants, {"name": name, "created": now()})

    def _charge(self, db: sa.Connection, name: str, num_adapters: int, num_bytes: int) -> None:
        """Count what *name* keeps from now on; raises `QuotaExceeded`."""
        self._ensure_tenant(db, name)
        change = tenants.update().where(tenants.c.name == name)
        change = change.values(
            num_adapters=tenants.c.num_adapters + num_adapters,
            num_bytes=tenants.c.num_bytes + num_bytes,
        )
        kept = tenant_of(db.execute(change.returning(*tenants.c)).one())
        if num_adapters > 0:
            self._check_quota(kept)

    def _check_quota(self, kept: Tenant) -> None:
        if kept.name == SHARED:
            return
        own, usual = kept.quota, self.default_quota
        for held, unit, bounds in (
            (kept.num_adapters, "adapters", (own.max_adapters, usual.max_adapters)),
            (kept.num_bytes, "bytes", (own.max_bytes, usual.max_bytes)),
        ):
            most = next((bound for bound in bounds if bound is not None), held)
            if held > most:
                raise QuotaExceeded(f"the tenant would keep {held:,} {unit}, at most {most:,}")


MOMENT = tenants.c.suspended.type
NOT_SUSPENDED = tenants.c.suspended.is_(None)


def tenant_of(row: Any) -> Tenant:
    quota = Quota(row.max_adapters, row.max_bytes)
    return Tenant(row.name, row.created, row.suspended, quota, row.num_adapters, row.num_bytes)
