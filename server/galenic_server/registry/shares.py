"""
Stores shares: names of adapters or aliases that a tenant lends to other tenants, or to all.

A borrower names them ``owner/name`` or ``owner/name@version``; for all others they do not exist.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from galenic_adapters.refs import check_name
from galenic_server.audit.chain import note
from galenic_server.database.changes import Changes, Kind
from galenic_server.database.tables import shares, tenants
from galenic_server.tenancy.tenants import NOT_SUSPENDED

EVERYONE = "*"


@dataclass(frozen=True, slots=True)
class Share:
    """Says which *tenants* may use *owner*'s *name*; `EVERYONE` among them stands for all."""

    owner: str
    name: str
    tenants: tuple[str, ...]


class Shares:
    """Stores which tenants may use which names of others."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._database = changes.database

    def put(self, owner: str, name: str, tenants: Iterable[str]) -> Share:
        """Lend *name* to these tenants and to no others; no tenants end the share."""
        grantees = sorted({_grantee(tenant) for tenant in tenants})
        check_name("tenant", owner)
        with self._changes.writing(Kind.SHARE, owner, check_name("name", name)) as writing:
            note(name=name, shared_with=grantees)
            known = sa.and_(shares.c.tenant == owner, shares.c.name == name)
            writing.db.execute(shares.delete().where(known))
            if grantees:
                rows = [{"tenant": owner, "name": name, "grantee": g} for g in grantees]
                writing.db.execute(shares.insert(), rows)
        return Share(owner, name, tuple(grantees))

    def of(self, owner: str) -> list[Share]:
        """Return everything that *owner* lends."""
        query = sa.select(shares).where(shares.c.tenant == owner)
        found: dict[str, list[str]] = {}
        with self._database.reading() as db:
            for row in db.execute(query.order_by(shares.c.name, shares.c.grantee)):
                found.setdefault(row.name, []).append(row.grantee)
        return [Share(owner, name, tuple(tenants)) for name, tenants in found.items()]

    def lent_to(self, tenant: str) -> list[tuple[str, str]]:
        """Return owner and name of everything that others, who are not suspended, lend *tenant*."""
        query = sa.select(shares.c.tenant, shares.c.name).distinct()
        query = query.where(shares.c.grantee.in_((tenant, EVERYONE)), shares.c.tenant != tenant)
        query = query.join(tenants, tenants.c.name == shares.c.tenant).where(NOT_SUSPENDED)
        with self._database.reading() as db:
            rows = db.execute(query.order_by(shares.c.tenant, shares.c.name))
            return [(row.tenant, row.name) for row in rows]


def _grantee(text: str) -> str:
    return text if text == EVERYONE else check_name("tenants", text)


def is_shared(db: sa.Connection, owner: str, name: str, tenant: str) -> bool:
    """Tell whether *owner*, who is not suspended, lends *name* to *tenant*."""
    found = sa.select(shares.c.name).where(
        shares.c.tenant == owner, shares.c.name == name, shares.c.grantee.in_((tenant, EVERYONE))
    )
    found = found.join(tenants, tenants.c.name == shares.c.tenant).where(NOT_SUSPENDED)
    return db.execute(found).first() is not None
