"""
Resolves names: finds the version that a text means to a tenant now.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from galenic_adapters.errors import NotFound
from galenic_adapters.package.manifest import Manifest
from galenic_adapters.refs import NAME, SHARED, VERSION, AdapterRef
from galenic_server.database.database import Database
from galenic_server.database.tables import adapters, aliases
from galenic_server.registry.rows import is_version, live, manifest_of
from galenic_server.registry.shares import is_shared


@dataclass(frozen=True, slots=True)
class Resolved:
    """Holds a version; its *canary*, if any, answers *weight* of a hundred requests instead."""

    ref: AdapterRef
    digest: str
    manifest: Manifest
    canary: "Resolved | None" = None
    weight: int = 0

    def for_request(self, id_: str) -> "Resolved":
        """
        Choose the version that answers the request of that id.

        The same id gets the same version on every replica, so a retry does not draw again.
        """
        if self.canary is None:
            return self
        lot = hashlib.sha256(f"{self.digest} {self.canary.digest} {id_}".encode()).digest()
        is_canary = int.from_bytes(lot[:8], "big") % 100 < self.weight
        return self.canary if is_canary else replace(self, canary=None, weight=0)


class Names:
    """Resolves what a tenant calls an adapter."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def resolve(self, tenant: str, text: str) -> Resolved:
        """
        Resolve ``name@version``, an alias, or a name (its newest version).

        The tenant's own come before shared ones, and an alias before an adapter of that name.
        ``owner/…`` names what another tenant lends to this one. Raises `NotFound`.
        """
        before, slash, after = text.partition("/")
        owner, wanted = (before, after) if slash else (tenant, before)
        name, at, version = wanted.partition("@")
        is_name = NAME.fullmatch(name) and (not slash or NAME.fullmatch(owner))
        if not is_name or (at and not VERSION.fullmatch(version)):
            raise NotFound("no such adapter: that is neither name nor name@version")
        asked = {"tenant": owner, "shared": owner if slash else SHARED, "name": name}
        with self._database.reading() as db:
            if owner in (tenant, SHARED) or is_shared(db, owner, name, tenant):
                found = _find(db, asked, int(version) if at else None)
                if found is not None:
                    return found
        raise NotFound(f"no adapter {text!r}")


def _meant(owner: sa.ColumnElement[str]) -> sa.Select[Any]:
    return live(*MEANT).where(adapters.c.tenant == owner)


def _exactly(owner: sa.ColumnElement[str]) -> sa.Select[Any]:
    return _meant(owner).where(
        adapters.c.name == sa.bindparam("name"), adapters.c.version == sa.bindparam("version")
    )


def _aliased(owner: sa.ColumnElement[str]) -> sa.Select[Any]:
    target = sa.and_(
        aliases.c.tenant == adapters.c.tenant,
        aliases.c.name == adapters.c.name,
        aliases.c.version == adapters.c.version,
    )
    # Filter by the alias's own tenant, so that its index is used.
    named = sa.and_(aliases.c.tenant == owner, aliases.c.alias == sa.bindparam("name"))
    return _meant(owner).add_columns(*CANARY).join(aliases, target).where(named)


def _newest(owner: sa.ColumnElement[str]) -> sa.Select[Any]:
    named = _meant(owner).where(adapters.c.name == sa.bindparam("name"))
    no_canary = (sa.null().cast(c.type).label(c.name) for c in CANARY)
    return named.add_columns(*no_canary).order_by(adapters.c.version.desc())


def _first_of(*queries: sa.Select[Any]) -> sa.CompoundSelect[Any]:
    """Select the result of the first of *queries* that has one, in one trip to the database."""
    turns = (query.add_columns(sa.literal(i).label("turn")) for i, query in enumerate(queries))
    found = (sa.select(query.limit(1).subquery()) for query in turns)
    return sa.union_all(*found).order_by("turn").limit(1)


MEANT = [adapters.c[name] for name in ("tenant", "name", "version", "digest", "manifest")]
CANARY = [aliases.c.canary_name, aliases.c.canary_version, aliases.c.canary_weight]
OWN = sa.bindparam("tenant", type_=sa.String)
SHARED_OWNER = sa.bindparam("shared", type_=sa.String)
BY_VERSION = _first_of(_exactly(OWN), _exactly(SHARED_OWNER))
BY_NAME = _first_of(_aliased(OWN), _newest(OWN), _aliased(SHARED_OWNER), _newest(SHARED_OWNER))


def _find(db: sa.Connection, asked: dict[str, str], version: int | None) -> Resolved | None:
    if version is not None:
        row = db.execute(BY_VERSION, asked | {"version": version}).first()
        return None if row is None else _resolved(row)
    row = db.execute(BY_NAME, asked).first()
    if row is None or row.canary_name is None:
        return None if row is None else _resolved(row)
    ref = AdapterRef(row.tenant, row.canary_name, row.canary_version)
    beside = db.execute(live(*MEANT).where(is_version(ref))).first()
    assert beside is not None, "what an alias points to is not deleted"
    return replace(_resolved(row), canary=_resolved(beside), weight=row.canary_weight)


def _resolved(row: Any) -> Resolved:
    ref = AdapterRef(row.tenant, row.name, row.version)
    return Resolved(ref, row.digest, manifest_of(row.manifest))
