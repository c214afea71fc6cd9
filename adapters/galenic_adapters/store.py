"""
Where adapters live: versions that never change, and aliases that move.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa

from galenic_adapters.audit import note
from galenic_adapters.errors import Conflict, NotFound, Unavailable
from galenic_adapters.factor import Factor
from galenic_adapters.keys import Key, Role, SqlKeys
from galenic_adapters.manifest import DIGEST, Manifest
from galenic_adapters.package import Package, package_digest
from galenic_adapters.refs import NAME, SHARED, VERSION, AdapterRef, check_name
from galenic_adapters.tables import adapters, aliases

__all__ = ["AdapterStore", "Entry", "Key", "Resolved", "Role", "SqlStore"]


class Resolved(NamedTuple):
    """What a name means just now."""

    ref: AdapterRef
    digest: str
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Entry:
    """An adapter in a listing: all but its tensors."""

    ref: AdapterRef
    digest: str
    manifest: Manifest
    num_bytes: int
    created: datetime


class AdapterStore(Protocol):
    """
    A published version never changes, so readers may cache it for good.

    Methods block and may be called from any thread. Each raises `NotFound` for what the tenant does
    not have, another tenant's included, and `Unavailable` where the database is away or full; a
    write that raised wrote nothing.
    """

    def put(self, ref: AdapterRef, package: Package) -> str:
        """Write *ref* once, and return its digest. Other bytes than it has are a `Conflict`."""

    def put_many(self, packages: Mapping[AdapterRef, Package]) -> None:
        """As `put`, all of them or none."""

    def publish(self, tenant: str, name: str, package: Package) -> AdapterRef:
        """Write *package* as the next version of *name*."""

    def get(self, ref: AdapterRef) -> Package: ...

    def payload(self, digest: str) -> bytes: ...

    def factor(self, digest: str) -> Factor: ...

    def describe(self, ref: AdapterRef) -> Entry: ...

    def owned_by(
        self, tenant: str, *, after: AdapterRef | None = None, limit: int = 100
    ) -> list[Entry]:
        """The tenant's adapters by name and version, *limit* of them, from the one *after*."""

    def delete(self, ref: AdapterRef) -> None:
        """Drop the bytes; the number stays taken. `Conflict` while an alias points to it."""

    def move_alias(
        self, tenant: str, alias: str, ref: AdapterRef, *, expect: AdapterRef | None = None
    ) -> None:
        """Point *alias* to *ref*. With *expect*, `Conflict` unless it points there before."""

    def alias(self, tenant: str, alias: str) -> AdapterRef: ...

    def aliases(self, tenant: str) -> dict[str, AdapterRef]: ...

    def drop_alias(self, tenant: str, alias: str) -> None: ...

    def resolve(self, tenant: str, text: str) -> Resolved:
        """
        What *text* means: ``name@version``, an alias, or a bare name, which is its newest version.

        The tenant's own first, then the shared ones; an alias before an adapter of the same name.
        """


class SqlStore(SqlKeys):
    """The `AdapterStore` over SQLAlchemy, the keys beside it; `SqlStore.open(url)` makes one."""

    def put(self, ref: AdapterRef, package: Package) -> str:
        self.put_many({ref: package})
        return package.digest

    def put_many(self, packages: Mapping[AdapterRef, Package]) -> None:
        with self._database.writing() as db:
            for ref in sorted(packages):  # one order for all writers, so that none deadlock
                if not self._insert(db, ref, packages[ref]):
                    _check_same(db, ref, packages[ref].digest)

    def publish(self, tenant: str, name: str, package: Package) -> AdapterRef:
        newest = sa.select(sa.func.max(adapters.c.version)).where(
            adapters.c.tenant == tenant, adapters.c.name == name
        )
        while True:  # who loses a number to another writer takes the next
            with self._database.writing() as db:
                ref = AdapterRef(tenant, name, (db.scalar(newest) or 0) + 1)
                if self._insert(db, ref, package):
                    return ref

    def get(self, ref: AdapterRef) -> Package:
        with self._database.reading() as db:
            row = db.execute(_live(adapters.c.digest, adapters.c.payload).where(_is(ref))).first()
        if row is None:
            raise NotFound(f"no adapter {str(ref)!r}")
        return _intact(row.digest, row.payload)

    def payload(self, digest: str) -> bytes:
        query = _live(adapters.c.payload).where(adapters.c.digest == digest).limit(1)
        with self._database.reading() as db:
            found: bytes | None = db.scalar(query) if DIGEST.fullmatch(digest) else None
        if found is None:
            raise NotFound(f"no adapter of digest {digest[:80]!r}")
        return found

    def factor(self, digest: str) -> Factor:
        return _intact(digest, self.payload(digest)).factor

    def describe(self, ref: AdapterRef) -> Entry:
        with self._database.reading() as db:
            row = db.execute(_live(*ENTRY).where(_is(ref))).first()
        if row is None:
            raise NotFound(f"no adapter {str(ref)!r}")
        return _entry(row)

    def owned_by(
        self, tenant: str, *, after: AdapterRef | None = None, limit: int = 100
    ) -> list[Entry]:
        place = sa.tuple_(adapters.c.name, adapters.c.version)
        query = _live(*ENTRY).where(adapters.c.tenant == tenant)
        if after is not None:
            query = query.where(place > (after.name, after.version))
        query = query.order_by(adapters.c.name, adapters.c.version).limit(limit)
        with self._database.reading() as db:
            return [_entry(row) for row in db.execute(query)]

    def delete(self, ref: AdapterRef) -> None:
        pointing = sa.select(aliases.c.alias).where(
            aliases.c.tenant == ref.tenant,
            aliases.c.name == ref.name,
            aliases.c.version == ref.version,
        )
        with self._database.writing() as db:
            digest = _lock(db, ref)
            if names := sorted(db.scalars(pointing)):
                raise Conflict(f"{ref} is what alias {', '.join(names)} points to")
            db.execute(adapters.update().where(_is(ref)).values(deleted=_now(), payload=None))
            note(adapter=str(ref), digest=digest)

    def move_alias(
        self, tenant: str, alias: str, ref: AdapterRef, *, expect: AdapterRef | None = None
    ) -> None:
        if ref.tenant != tenant:
            raise NotFound(f"no adapter {str(ref)!r}")
        target = {"name": ref.name, "version": ref.version, "changed": _now()}
        row = {"tenant": tenant, "alias": check_name("alias", alias), **target}
        with self._database.writing() as db:
            digest = _lock(db, ref)
            note(alias=alias, old=_target(db, tenant, alias), new=str(ref), digest=digest)
            if expect is None:
                upsert = self._database.insert(aliases).values(row)
                key = [aliases.c.tenant, aliases.c.alias]
                db.execute(upsert.on_conflict_do_update(index_elements=key, set_=target))
                return
            moved = aliases.update().where(
                _is_alias(tenant, alias),
                aliases.c.name == expect.name,
                aliases.c.version == expect.version,
            )
            if not db.execute(moved.values(target)).rowcount:
                raise Conflict(f"alias {alias} does not point to {expect} any more")

    def alias(self, tenant: str, alias: str) -> AdapterRef:
        query = sa.select(aliases.c.name, aliases.c.version).where(_is_alias(tenant, alias))
        with self._database.reading() as db:
            row = db.execute(query).first()
        if row is None:
            raise NotFound(f"no alias {alias!r}")
        return AdapterRef(tenant, row.name, row.version)

    def aliases(self, tenant: str) -> dict[str, AdapterRef]:
        query = sa.select(aliases).where(aliases.c.tenant == tenant).order_by(aliases.c.alias)
        with self._database.reading() as db:
            return {r.alias: AdapterRef(tenant, r.name, r.version) for r in db.execute(query)}

    def drop_alias(self, tenant: str, alias: str) -> None:
        with self._database.writing() as db:
            note(alias=alias, old=_target(db, tenant, alias), new=None)
            if not db.execute(aliases.delete().where(_is_alias(tenant, alias))).rowcount:
                raise NotFound(f"no alias {alias!r}")

    def resolve(self, tenant: str, text: str) -> Resolved:
        name, at, version = text.partition("@")
        if not NAME.fullmatch(name) or (at and not VERSION.fullmatch(version)):
            raise NotFound("no such adapter: that is neither name nor name@version")
        values = {"tenant": tenant, "name": name} | ({"version": int(version)} if at else {})
        with self._database.reading() as db:
            row = db.execute(BY_VERSION if at else BY_NAME, values).first()
        if row is None:
            raise NotFound(f"no adapter {text!r}")
        ref = AdapterRef(row.tenant, row.name, row.version)
        return Resolved(ref, row.digest, _manifest(row.manifest))

    def _insert(self, db: sa.Connection, ref: AdapterRef, package: Package) -> bool:
        row = {
            "tenant": ref.tenant,
            "name": ref.name,
            "version": ref.version,
            "digest": package.digest,
            "manifest": package.manifest.model_dump_json(),
            "num_bytes": len(package.data),
            "created": _now(),
            "payload": package.data,
        }
        note(adapter=str(ref), digest=package.digest)
        return self._database.insert_new(db, adapters, row)


ENTRY = [c for c in adapters.c if c.name not in ("payload", "deleted")]


def _now() -> datetime:
    return datetime.now(UTC)


def _live(*columns: sa.Column[Any]) -> sa.Select[Any]:
    return sa.select(*columns).where(adapters.c.deleted.is_(None))


def _is(ref: AdapterRef) -> sa.ColumnElement[bool]:
    return sa.and_(
        adapters.c.tenant == ref.tenant,
        adapters.c.name == ref.name,
        adapters.c.version == ref.version,
    )


def _is_alias(tenant: str, alias: str) -> sa.ColumnElement[bool]:
    if not NAME.fullmatch(alias):
        raise NotFound(f"no alias {alias[:80]!r}")
    return sa.and_(aliases.c.tenant == tenant, aliases.c.alias == alias)


def _lock(db: sa.Connection, ref: AdapterRef) -> str:
    """
    Hold *ref*'s row until the transaction ends, so that it is not deleted under an alias.

    Returns its digest.
    """
    row = db.execute(_live(adapters.c.digest).where(_is(ref)).with_for_update()).first()
    if row is None:
        raise NotFound(f"no adapter {str(ref)!r}")
    digest: str = row.digest
    return digest


def _target(db: sa.Connection, tenant: str, alias: str) -> str | None:
    """Where *alias* points just now; it stays so until the transaction ends."""
    query = sa.select(aliases.c.name, aliases.c.version).where(_is_alias(tenant, alias))
    row = db.execute(query.with_for_update()).first()
    return row and f"{row.name}@{row.version}"


def _check_same(db: sa.Connection, ref: AdapterRef, digest: str) -> None:
    row = db.execute(sa.select(adapters.c.digest, adapters.c.deleted).where(_is(ref))).one()
    if row.deleted is not None:
        raise Conflict(f"{ref} was deleted; its number is not given again")
    if row.digest != digest:
        raise Conflict(f"{ref} is {row.digest} and never changes; these bytes are {digest}")


def _meant(owner: sa.ColumnElement[str]) -> sa.Select[Any]:
    columns = ("tenant", "name", "version", "digest", "manifest")
    return _live(*(adapters.c[name] for name in columns)).where(adapters.c.tenant == owner)


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
    # by the alias's tenant too, which is its index
    named = sa.and_(aliases.c.tenant == owner, aliases.c.alias == sa.bindparam("name"))
    return _meant(owner).join(aliases, target).where(named)


def _newest(owner: sa.ColumnElement[str]) -> sa.Select[Any]:
    named = _meant(owner).where(adapters.c.name == sa.bindparam("name"))
    return named.order_by(adapters.c.version.desc())


def _first_of(*queries: sa.Select[Any]) -> sa.CompoundSelect[Any]:
    """What the first of *queries* that finds something finds, in one trip to the database."""
    turns = (query.add_columns(sa.literal(i).label("turn")) for i, query in enumerate(queries))
    found = (sa.select(query.limit(1).subquery()) for query in turns)
    return sa.union_all(*found).order_by("turn").limit(1)


OWN, SHARED_OWNER = sa.bindparam("tenant", type_=sa.String), sa.literal(SHARED)
BY_VERSION = _first_of(_exactly(OWN), _exactly(SHARED_OWNER))
BY_NAME = _first_of(_aliased(OWN), _newest(OWN), _aliased(SHARED_OWNER), _newest(SHARED_OWNER))


@lru_cache(maxsize=4096)
def _manifest(text: str) -> Manifest:
    return Manifest.model_validate_json(text)


def _entry(row: Any) -> Entry:
    ref = AdapterRef(row.tenant, row.name, row.version)
    return Entry(ref, row.digest, _manifest(row.manifest), row.num_bytes, row.created)


def _intact(digest: str, payload: bytes) -> Package:
    """The package that was written; bytes that rotted since are not served."""
    if package_digest(payload) != digest:
        raise Unavailable(f"the stored bytes of {digest} are damaged")
    return Package.read(payload, max_bytes=len(payload))
