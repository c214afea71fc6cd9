"""
Stores tenants: each one's quota, its usage, and whether it is suspended.

A tenant exists from its first key or adapter on; it need not be created first.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from galenic_adapters.errors import NotFound, QuotaExceeded
from galenic_adapters.refs import NAME, SHARED, check_name
from galenic_server.audit.chain import note
from galenic_server.database.changes import Changes, Kind, now
from galenic_server.database.tables import tenants


@dataclass(frozen=True, slots=True)
class Quota:
    """Bounds a tenant's number of versions and their bytes; None is no bound."""

    max_adapters: int | None = None
    max_bytes: int | None = None


UNBOUNDED = Quota()


@dataclass(frozen=True, slots=True)
class Tenant:
    """
    Describes a tenant and its usage.

    quota: its own, if it has one.   num_adapters, num_bytes: include deleted versions until they
    are purged.
    """

    name: str
    created: datetime
    suspended: datetime | None
    quota: Quota
    num_adapters: int
    num_bytes: int

    def with_one_more(self, num_bytes: int) -> "Tenant":
        """Return the tenant with one more adapter of that size counted."""
        return replace(
            self, num_adapters=self.num_adapters + 1, num_bytes=self.num_bytes + num_bytes
        )


class Tenants:
    """Counts what tenants store, against their own quota or else the server's *default_quota*."""

    def __init__(self, changes: Changes, default_quota: Quota = UNBOUNDED) -> None:
        self._changes = changes
        self._database = changes.database
        self._default_quota = default_quota

    def put(self, name: str, *, quota: Quota = UNBOUNDED, is_suspended: bool = False) -> Tenant:
        """Create or change the tenant. Keys of a suspended tenant are refused."""
        with self._changes.writing(Kind.TENANT, check_name("tenant", name)) as writing:
            note(
                of=name,
                max_adapters=quota.max_adapters,
                max_bytes=quota.max_bytes,
                suspended=is_suspended,
            )
            self.ensure(writing.db, name)
            since = sa.func.coalesce(tenants.c.suspended, sa.literal(now(), MOMENT))
            change = tenants.update().where(tenants.c.name == name)
            writing.db.execute(
                change.values(
                    suspended=since if is_suspended else None,
                    max_adapters=quota.max_adapters,
                    max_bytes=quota.max_bytes,
                )
            )
        return self.get(name)

    def get(self, name: str) -> Tenant:
        query = sa.select(tenants).where(tenants.c.name == name)
        with self._database.reading() as db:
            row = db.execute(query).first() if NAME.fullmatch(name) else None
        if row is None:
            raise NotFound(f"no tenant {name[:80]!r}")
        return _tenant(row)

    def page(self, *, after: str | None = None, limit: int = 100) -> list[Tenant]:
        """Return *limit* tenants in order of names, from the one after *after*."""
        query = sa.select(tenants).order_by(tenants.c.name).limit(limit)
        if after is not None:
            query = query.where(tenants.c.name > after)
        with self._database.reading() as db:
            return [_tenant(row) for row in db.execute(query)]

    def check_room(self, name: str, num_bytes: int) -> None:
        """Raise `QuotaExceeded` if one more adapter of that size would exceed the quota."""
        with suppress(NotFound):
            self.check_quota(self.get(name).with_one_more(num_bytes))

    def is_open(self, name: str) -> bool:
        """Tell whether there is such a tenant, and it is not suspended."""
        query = sa.select(tenants.c.name).where(tenants.c.name == name, NOT_SUSPENDED)
        with self._database.reading() as db:
            return NAME.fullmatch(name) is not None and db.execute(query).first() is not None

    # For the other stores, within their transactions

    def ensure(self, db: sa.Connection, name: str) -> None:
        """Create the tenant unless it exists."""
        self._database.insert_new(db, tenants, {"name": name, "created": now()})

    def ensured(self, db: sa.Connection, name: str) -> Tenant:
        """Return the tenant, creating it if needed."""
        self.ensure(db, name)
        return _tenant(db.execute(sa.select(tenants).where(tenants.c.name == name)).one())

    def charge(
        self,
        db: sa.Connection,
        name: str,
        num_adapters: int,
        num_bytes: int,
        *,
        is_checked: bool = True,
    ) -> None:
        """Add to the usage of *name*; if checked, raises `QuotaExceeded` beyond the quota."""
        self.ensure(db, name)
        change = tenants.update().where(tenants.c.name == name)
        change = change.values(
            num_adapters=tenants.c.num_adapters + num_adapters,
            num_bytes=tenants.c.num_bytes + num_bytes,
        )
        kept = _tenant(db.execute(change.returning(*tenants.c)).one())
        if is_checked:
            self.check_quota(kept)

    def check_quota(self, kept: Tenant) -> None:
        """Raise `QuotaExceeded` if the usage in *kept* exceeds the tenant's quota."""
        if kept.name == SHARED:
            return
        own, usual = kept.quota, self._default_quota
        for held, unit, bounds in (
            (kept.num_adapters, "adapters", (own.max_adapters, usual.max_adapters)),
            (kept.num_bytes, "bytes", (own.max_bytes, usual.max_bytes)),
        ):
            most = next((bound for bound in bounds if bound is not None), held)
            if held > most:
                raise QuotaExceeded(f"the tenant would keep {held:,} {unit}, at most {most:,}")


MOMENT = tenants.c.suspended.type
NOT_SUSPENDED = tenants.c.suspended.is_(None)


def _tenant(row: Any) -> Tenant:
    quota = Quota(row.max_adapters, row.max_bytes)
    return Tenant(row.name, row.created, row.suspended, quota, row.num_adapters, row.num_bytes)
