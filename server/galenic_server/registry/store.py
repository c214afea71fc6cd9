"""
Where adapters live: versions that never change, named by digest, and what names mean just now.

A published version never changes, so readers may cache it for good. Methods block and may be
called from any thread. Each raises `NotFound` for what the tenant does not have, another tenant's
included, and `Unavailable` where the database is away or full; a write that raised wrote nothing.

    SqlStore -> SqlMany -> SqlUploads -> SqlShares -> SqlAliases -> SqlKeys -> SqlTenants
        -> SqlChanges
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from galenic_adapters.errors import Conflict, NotFound, Unavailable
from galenic_adapters.factor import Factor
from galenic_adapters.package.file import Package, checked_factor, package_digest
from galenic_adapters.package.manifest import DIGEST, Manifest
from galenic_adapters.package.signature import Signed
from galenic_adapters.refs import NAME, SHARED, VERSION, AdapterRef
from galenic_server.audit.chain import note
from galenic_server.database.changes import Kind, Writing, now
from galenic_server.database.tables import adapters, aliases
from galenic_server.registry.aliases import pointing
from galenic_server.registry.shares import is_shared
from galenic_server.registry.versions import SqlMany, There, row_of
from galenic_server.tenancy.keys import Key, Role

__all__ = ["Entry", "Key", "Resolved", "Role", "SqlStore"]


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a name means just now: a version, and beside it perhaps a canary for some requests."""

    ref: AdapterRef
    digest: str
    manifest: Manifest
    canary: "Resolved | None" = None
    weight: int = 0

    def for_request(self, id_: str) -> "Resolved":
        """
        The version that answers the request of that id.

        The same id gets the same one on every replica, so that a retry is no second draw; of many
        ids, *weight* in a hundred get the canary.
        """
        if self.canary is None:
            return self
        lot = hashlib.sha256(f"{self.digest} {self.canary.digest} {id_}".encode()).digest()
        is_canary = int.from_bytes(lot[:8], "big") % 100 < self.weight
        return self.canary if is_canary else replace(self, canary=None, weight=0)


@dataclass(frozen=True, slots=True)
class Entry:
    """
    An adapter in a listing: all but its tensors.

    change: the number of the one that brought it.   signed_by: whose signature was verified.
    """

    ref: AdapterRef
    digest: str
    manifest: Manifest
    num_bytes: int
    created: datetime
    change: int = 0
    signed_by: str | None = None
    deleted: datetime | None = None


class SqlStore(SqlMany):
    """Everything over SQLAlchemy; `SqlStore.open(url)` makes one."""

    # Writing

    def put(self, ref: AdapterRef, package: Package) -> str:
        """Write *ref* once, and return its digest. Other bytes than it has are a `Conflict`."""
        self.put_many({ref: package})
        return package.digest

    def put_many(
        self,
        packages: Mapping[AdapterRef, Package],
        *,
        signed: Mapping[AdapterRef, Signed] | None = None,
    ) -> None:
        """As `put`, all of them or none."""
        owners = {ref.tenant for ref in packages}
        owner = owners.pop() if len(owners) == 1 else ""
        with self._changing(Kind.ADAPTER, owner) as writing:
            new = [
                self._put(writing, ref, package, (signed or {}).get(ref))
                for ref, package in sorted(packages.items(), key=lambda pair: pair[0])
            ]
            writing.is_change = any(new)
            if len(packages) > 1:
                digests = {str(ref): package.digest for ref, package in packages.items()}
                note(adapter=None, digest=None, signed_by=None, digests=digests)

    def publish(
        self,
        tenant: str,
        name: str,
        package: Package,
        *,
        version: int | None = None,
        upload: str | None = None,
        signed: Signed | None = None,
    ) -> AdapterRef:
        """Write *package* as *version*, or as the next one of *name*; an *upload* does so once."""
        with self._changing(Kind.ADAPTER, tenant, package.digest) as writing:
            if upload and (made := self._made_by(writing.db, tenant, upload)):
                writing.is_change = False
                return made
            ref = AdapterRef(tenant, name, version or _next_version(writing.db, tenant, name))
            writing.is_change = self._put(writing, ref, package, signed)
            if upload:
                self._settle(writing.db, upload, ref)
            return ref

    def delete(self, ref: AdapterRef, *, digest: str | None = None, keep: bool = True) -> None:
        """
        Nobody finds it any more; its number stays taken. Until purged, `undelete` brings it back.

        `Conflict` while an alias points to it, or where it is not of that *digest*. Without *keep*
        its bytes are dropped at once.
        """
        with self._changing(Kind.DELETION, ref.tenant) as writing:
            entry = _describe(writing.db, ref)
            if digest is not None and digest != entry.digest:
                raise Conflict(f"{ref} is {entry.digest}, not {digest[:80]}")
            if names := sorted(writing.db.scalars(pointing(ref))):
                raise Conflict(f"{ref} is what alias {', '.join(names)} points to")
            writing.db.execute(adapters.update().where(_is(ref)).values(deleted=now()))
            writing.change = replace(writing.change, name=entry.digest)
            note(adapter=str(ref), digest=entry.digest, purged=not keep)
            if not keep:
                self._purge(writing.db, _is(ref))

    def undelete(self, ref: AdapterRef) -> Entry:
        """Bring back what was deleted and not yet purged."""
        with self._changing(Kind.ADAPTER, ref.tenant) as writing:
            there = sa.and_(_is(ref), adapters.c.deleted.is_not(None), _HELD)
            back = adapters.update().where(there).values(deleted=None, change=writing.number)
            if not writing.db.execute(back).rowcount:
                raise NotFound(f"no deleted adapter {str(ref)!r}")
            entry = _describe(writing.db, ref)
            writing.change = replace(writing.change, name=entry.digest)
            note(adapter=str(ref), digest=entry.digest)
            return entry

    def purge(self, older: timedelta) -> int:
        """Drop the bytes of what was deleted longer ago; returns how many."""
        with self._changing(Kind.DELETION, "") as writing:
            num = self._purge(writing.db, adapters.c.deleted < now() - older)
            writing.is_change = num > 0
            return num

    # Reading

    def check_free(self, ref: AdapterRef, digest: str) -> None:
        """Raises `Conflict` where *ref* could not be written with these bytes."""
        with self._database.reading() as db:
            if db.execute(sa.select(adapters.c.digest).where(_is(ref))).first():
                _check_same(db, ref, digest)

    def get(self, ref: AdapterRef) -> Package:
        with self._database.reading() as db:
            row = db.execute(_live(adapters.c.digest, adapters.c.payload).where(_is(ref))).first()
        if row is None:
            raise NotFound(f"no adapter {str(ref)!r}")
        return Package.read(_intact(row.digest, row.payload), max_bytes=len(row.payload))

    def payload(self, digest: str) -> bytes:
        query = _live(adapters.c.payload).where(adapters.c.digest == digest).limit(1)
        with self._database.reading() as db:
            found: bytes | None = db.scalar(query) if DIGEST.fullmatch(digest) else None
        if found is None:
            raise NotFound(f"no adapter of digest {digest[:80]!r}")
        return found

    def factor(self, digest: str) -> Factor:
        return checked_factor(_intact(digest, self.payload(digest)))

    def describe(self, ref: AdapterRef) -> Entry:
        with self._database.reading() as db:
            return _describe(db, ref)

    def owned_by(
        self,
        tenant: str,
        *,
        after: AdapterRef | None = None,
        limit: int = 100,
        are_deleted: bool = False,
    ) -> list[Entry]:
        """The tenant's adapters by name and version, *limit* of them, from the one *after*."""
        place = sa.tuple_(adapters.c.name, adapters.c.version)
        query = _deleted(*ENTRY) if are_deleted else _live(*ENTRY)
        query = query.where(adapters.c.tenant == tenant)
        if after is not None:
            query = query.where(place > (after.name, after.version))
        query = query.order_by(adapters.c.name, adapters.c.version).limit(limit)
        with self._database.reading() as db:
            return [_entry(row) for row in db.execute(query)]

    def versions(self, tenant: str, name: str) -> list[Entry]:
        """Every version of one name, oldest first."""
        query = _live(*ENTRY).where(adapters.c.tenant == tenant, adapters.c.name == name)
        with self._database.reading() as db:
            return [_entry(row) for row in db.execute(query.order_by(adapters.c.version))]

    def everything_of(
        self, tenant: str, *, page: int = 200
    ) -> Iterator[tuple[Entry, bytes | None, str | None]]:
        """Every version with its bytes and its signature; of deleted ones no bytes."""
        place = sa.tuple_(adapters.c.name, adapters.c.version)
        query = sa.select(adapters).where(adapters.c.tenant == tenant)
        query = query.order_by(adapters.c.name, adapters.c.version).limit(page)
        after: tuple[str, int] = ("", 0)
        while True:
            with self._database.reading() as db:
                rows = db.execute(query.where(place > after)).all()
            for row in rows:
                yield _entry(row), None if row.deleted else row.payload, row.signature
            if len(rows) < page:
                return
            after = (rows[-1].name, rows[-1].version)

    def bury(self, tombs: Mapping[AdapterRef, tuple[str, Manifest]]) -> None:
        """Numbers that another store gave away for good; who has such a version keeps it."""
        rows = [
            {
                "tenant": ref.tenant,
                "name": ref.name,
                "version": ref.version,
                "digest": digest,
                "manifest": manifest.model_dump_json(),
                "num_bytes": 0,
                "created": now(),
                "deleted": now(),
            }
            for ref, (digest, manifest) in tombs.items()
        ]
        with self._database.writing() as db:
            for row in rows:
                self._database.insert_new(db, adapters, row)

    def of_digest(self, tenant: str, digest: str) -> Entry:
        """The tenant's oldest version of these bytes."""
        query = _live(*ENTRY).where(adapters.c.tenant == tenant, adapters.c.digest == digest)
        query = query.order_by(adapters.c.name, adapters.c.version).limit(1)
        with self._database.reading() as db:
            row = db.execute(query).first() if DIGEST.fullmatch(digest) else None
        if row is None:
            raise NotFound(f"no adapter of digest {digest[:80]!r}")
        return _entry(row)

    def resolve(self, tenant: str, text: str) -> Resolved:
        """
        What *text* means: ``name@version``, an alias, or a bare name, which is its newest version.

        The tenant's own first, then the shared ones; an alias before an adapter of the same name.
        ``owner/…`` is what another tenant lets this one ask.
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

    # Steps

    def _put(
        self, writing: Writing, ref: AdapterRef, package: Package, signed: Signed | None
    ) -> bool:
        """Whether it was new."""
        note(adapter=str(ref), digest=package.digest, signed_by=signed and signed.by)
        row = row_of(ref, package, signed, writing.number)
        if self._database.insert_new(writing.db, adapters, row):
            self._charge(writing.db, ref.tenant, 1, len(package.data))
            return True
        _check_same(writing.db, ref, package.digest)
        return False

    def _purge(self, db: sa.Connection, which: sa.ColumnElement[bool]) -> int:
        drop = adapters.update().where(which, adapters.c.deleted.is_not(None), _HELD)
        dropped = drop.values(payload=None, signature=None).returning(
            adapters.c.tenant, adapters.c.num_bytes
        )
        rows = db.execute(dropped).all()
        for row in rows:
            self._charge(db, row.tenant, -1, -row.num_bytes)
        return len(rows)


ENTRY = [c for c in adapters.c if c.name not in ("payload", "signature")]
_HELD = adapters.c.payload.is_not(None)


def _next_version(db: sa.Connection, tenant: str, name: str) -> int:
    newest = sa.select(sa.func.max(adapters.c.version)).where(
        adapters.c.tenant == tenant, adapters.c.name == name
    )
    return (db.scalar(newest) or 0) + 1


def _live(*columns: sa.Column[Any]) -> sa.Select[Any]:
    return sa.select(*columns).where(adapters.c.deleted.is_(None))


def _deleted(*columns: sa.Column[Any]) -> sa.Select[Any]:
    """What `undelete` would find."""
    return sa.select(*columns).where(adapters.c.deleted.is_not(None), _HELD)


def _is(ref: AdapterRef) -> sa.ColumnElement[bool]:
    return sa.and_(
        adapters.c.tenant == ref.tenant,
        adapters.c.name == ref.name,
        adapters.c.version == ref.version,
    )


def _describe(db: sa.Connection, ref: AdapterRef) -> Entry:
    row = db.execute(_live(*ENTRY).where(_is(ref))).first()
    if row is None:
        raise NotFound(f"no adapter {str(ref)!r}")
    return _entry(row)


def _check_same(db: sa.Connection, ref: AdapterRef, digest: str) -> None:
    row = db.execute(sa.select(adapters.c.digest, adapters.c.deleted).where(_is(ref))).one()
    There(row.digest, row.deleted is not None).check_same(ref, digest)


def _meant(owner: sa.ColumnElement[str]) -> sa.Select[Any]:
    return _live(*MEANT).where(adapters.c.tenant == owner)


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
    return _meant(owner).add_columns(*CANARY).join(aliases, target).where(named)


def _newest(owner: sa.ColumnElement[str]) -> sa.Select[Any]:
    named = _meant(owner).where(adapters.c.name == sa.bindparam("name"))
    no_canary = (sa.null().cast(c.type).label(c.name) for c in CANARY)
    return named.add_columns(*no_canary).order_by(adapters.c.version.desc())


def _first_of(*queries: sa.Select[Any]) -> sa.CompoundSelect[Any]:
    """What the first of *queries* that finds something finds, in one trip to the database."""
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
    beside = db.execute(_live(*MEANT).where(_is(ref))).first()
    assert beside is not None, "what an alias points to is not deleted"
    return replace(_resolved(row), canary=_resolved(beside), weight=row.canary_weight)


def _resolved(row: Any) -> Resolved:
    ref = AdapterRef(row.tenant, row.name, row.version)
    return Resolved(ref, row.digest, _manifest(row.manifest))


@lru_cache(maxsize=4096)
def _manifest(text: str) -> Manifest:
    return Manifest.model_validate_json(text)


def _entry(row: Any) -> Entry:
    ref = AdapterRef(row.tenant, row.name, row.version)
    return Entry(
        ref,
        row.digest,
        _manifest(row.manifest),
        row.num_bytes,
        row.created,
        row.change,
        row.signed_by,
        row.deleted,
    )


def _intact(digest: str, payload: bytes) -> bytes:
    """The bytes that were written; those that rotted since are not served."""
    if package_digest(payload) != digest:
        raise Unavailable(f"the stored bytes of {digest} are damaged")
    return payload
