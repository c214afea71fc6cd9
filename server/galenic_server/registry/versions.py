"""
Stores versions of adapters: written once, never changed, deleted, and listed.

A published version never changes, so readers may cache it for good, and its number is never reused.
A deleted version keeps its bytes until it is purged.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import sqlalchemy as sa

from galenic_adapters.errors import Conflict, NotFound
from galenic_adapters.package.file import Package
from galenic_adapters.package.manifest import DIGEST, Manifest
from galenic_adapters.package.signature import Signed
from galenic_adapters.refs import AdapterRef, check_name
from galenic_server.audit.chain import note
from galenic_server.database.changes import Changes, Kind, Writing, now
from galenic_server.database.tables import adapters
from galenic_server.registry.aliases import pointing
from galenic_server.registry.offers import Candidate, Numbering, Published, Refused, check_same
from galenic_server.registry.rows import (
    ENTRY,
    HAS_BYTES,
    IN_ONE_QUERY,
    Entry,
    deleted,
    entry_of,
    intact,
    is_version,
    live,
    row_of,
    tombstone_of,
)
from galenic_server.registry.uploads import Uploads
from galenic_server.tenancy.tenants import Tenants


class Versions:
    """Writes versions within their tenant's quota, and reads them."""

    def __init__(self, changes: Changes, tenants: Tenants, uploads: Uploads) -> None:
        self._changes = changes
        self._database = changes.database
        self._tenants = tenants
        self._uploads = uploads

    # Writing

    def put(self, ref: AdapterRef, package: Package) -> str:
        """Write *ref* and return its digest; raises `Conflict` if it has other bytes already."""
        self.put_many({ref: package})
        return package.digest

    def put_many(
        self,
        packages: Mapping[AdapterRef, Package],
        *,
        signed: Mapping[AdapterRef, Signed] | None = None,
    ) -> None:
        """Write all *packages* as `put` does, or none."""
        owners = {ref.tenant for ref in packages}
        owner = owners.pop() if len(owners) == 1 else ""
        with self._changes.writing(Kind.ADAPTER, owner) as writing:
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
        """Write *package* as *version* or the next one of *name*, only once for an *upload* key."""
        with self._changes.writing(Kind.ADAPTER, tenant, package.digest) as writing:
            if upload and (made := self._uploads.made_by(writing.db, tenant, upload)):
                writing.is_change = False
                return made
            ref = AdapterRef(tenant, name, version or _next_version(writing.db, tenant, name))
            writing.is_change = self._put(writing, ref, package, signed)
            if upload:
                self._uploads.settle(writing.db, upload, ref)
            return ref

    def publish_many(
        self, tenant: str, candidates: Sequence[Candidate]
    ) -> list[Published | Refused]:
        """
        Write all valid candidates in one transaction; returns where each is stored, or why not.

        Bytes that a name has already are not written again, so repeating a call changes nothing.
        """
        with self._changes.writing(Kind.ADAPTER, check_name("tenant", tenant)) as writing:
            numbering = self._numbering(
                writing.db, tenant, {candidate.name for candidate in candidates}
            )
            placed = [numbering.place(candidate) for candidate in candidates]
            new = {
                where.ref: what
                for where, what in zip(placed, candidates, strict=True)
                if isinstance(where, Published) and where.is_new
            }
            writing.is_change = bool(new)
            self._put_new(writing, tenant, new)
            note(digests={str(ref): what.package.digest for ref, what in new.items()})
        return placed

    def delete(self, ref: AdapterRef, *, digest: str | None = None, keep: bool = True) -> None:
        """
        Delete a version; until it is purged, `undelete` restores it.

        Raises `Conflict` while an alias points to it, or if it is not of that *digest*. Without
        *keep* it is purged at once.
        """
        with self._changes.writing(Kind.DELETION, ref.tenant) as writing:
            entry = _describe(writing.db, ref)
            if digest is not None and digest != entry.digest:
                raise Conflict(f"{ref} is {entry.digest}, not {digest[:80]}")
            if names := sorted(writing.db.scalars(pointing(ref))):
                raise Conflict(f"alias {', '.join(names)} points to {ref}")
            writing.db.execute(adapters.update().where(is_version(ref)).values(deleted=now()))
            writing.change = replace(writing.change, name=entry.digest)
            note(adapter=str(ref), digest=entry.digest, purged=not keep)
            if not keep:
                self._purge(writing.db, is_version(ref))

    def undelete(self, ref: AdapterRef) -> Entry:
        """Restore a version that was deleted and not yet purged; raises `NotFound`."""
        with self._changes.writing(Kind.ADAPTER, ref.tenant) as writing:
            there = sa.and_(is_version(ref), adapters.c.deleted.is_not(None), HAS_BYTES)
            back = adapters.update().where(there).values(deleted=None, change=writing.number)
            if not writing.db.execute(back).rowcount:
                raise NotFound(f"no deleted adapter {str(ref)!r}")
            entry = _describe(writing.db, ref)
            writing.change = replace(writing.change, name=entry.digest)
            note(adapter=str(ref), digest=entry.digest)
            return entry

    def purge(self, older: timedelta) -> int:
        """Drop the bytes of versions deleted longer ago than *older*; returns their number."""
        with self._changes.writing(Kind.DELETION, "") as writing:
            num = self._purge(writing.db, adapters.c.deleted < now() - older)
            writing.is_change = num > 0
            return num

    def bury(self, digests: Mapping[AdapterRef, tuple[str, Manifest]]) -> None:
        """
        Reserve version numbers that were deleted elsewhere. Existing versions are kept.

        Raises `QuotaExceeded` if that is more than the tenant may keep.
        """
        with self._database.writing() as db:
            for ref, (digest, manifest) in digests.items():
                row = tombstone_of(ref, digest, manifest)
                if self._database.insert_new(db, adapters, row):
                    num_bytes = TOMBSTONE_BYTES + len(row["manifest"])
                    self._tenants.charge(db, ref.tenant, 0, num_bytes)

    # Reading

    def check_free(self, ref: AdapterRef, digest: str) -> None:
        """Raise `Conflict` if *ref* could not be written with these bytes."""
        with self._database.reading() as db:
            _check_same(db, ref, digest)

    def get(self, ref: AdapterRef) -> Package:
        """Return the package; raises `Unavailable` if its bytes are damaged."""
        query = live(adapters.c.digest, adapters.c.payload).where(is_version(ref))
        with self._database.reading() as db:
            row = db.execute(query).first()
        if row is None:
            raise NotFound(f"no adapter {str(ref)!r}")
        return Package.read(intact(row.digest, row.payload), max_bytes=len(row.payload))

    def describe(self, ref: AdapterRef) -> Entry:
        with self._database.reading() as db:
            return _describe(db, ref)

    def of_tenant(
        self,
        tenant: str,
        *,
        after: AdapterRef | None = None,
        limit: int = 100,
        are_deleted: bool = False,
    ) -> list[Entry]:
        """Return *limit* of the tenant's versions by name and number, after the one *after*."""
        place = sa.tuple_(adapters.c.name, adapters.c.version)
        query = deleted(*ENTRY) if are_deleted else live(*ENTRY)
        query = query.where(adapters.c.tenant == tenant)
        if after is not None:
            query = query.where(place > (after.name, after.version))
        query = query.order_by(adapters.c.name, adapters.c.version).limit(limit)
        with self._database.reading() as db:
            return [entry_of(row) for row in db.execute(query)]

    def of_name(self, tenant: str, name: str) -> list[Entry]:
        """Return every version of one name, the oldest first."""
        query = live(*ENTRY).where(adapters.c.tenant == tenant, adapters.c.name == name)
        with self._database.reading() as db:
            return [entry_of(row) for row in db.execute(query.order_by(adapters.c.version))]

    def of_digest(self, tenant: str, digest: str) -> Entry:
        """Return the tenant's oldest version of these bytes."""
        query = live(*ENTRY).where(adapters.c.tenant == tenant, adapters.c.digest == digest)
        query = query.order_by(adapters.c.name, adapters.c.version).limit(1)
        with self._database.reading() as db:
            row = db.execute(query).first() if DIGEST.fullmatch(digest) else None
        if row is None:
            raise NotFound(f"no adapter of digest {digest[:80]!r}")
        return entry_of(row)

    def everything_of(
        self, tenant: str, *, page: int = 200
    ) -> Iterator[tuple[Entry, bytes | None, str | None]]:
        """Yield every version with its bytes and its signature; deleted ones without bytes."""
        place = sa.tuple_(adapters.c.name, adapters.c.version)
        query = sa.select(adapters).where(adapters.c.tenant == tenant)
        query = query.order_by(adapters.c.name, adapters.c.version).limit(page)
        after: tuple[str, int] = ("", 0)
        while True:
            with self._database.reading() as db:
                rows = db.execute(query.where(place > after)).all()
            for row in rows:
                yield entry_of(row), None if row.deleted else row.payload, row.signature
            if len(rows) < page:
                return
            after = (rows[-1].name, rows[-1].version)

    # Steps

    def _put(
        self, writing: Writing, ref: AdapterRef, package: Package, signed: Signed | None
    ) -> bool:
        """Write one version, and return whether it was new."""
        note(adapter=str(ref), digest=package.digest, signed_by=signed and signed.by)
        row = row_of(ref, package, signed, writing.number)
        if self._database.insert_new(writing.db, adapters, row):
            self._tenants.charge(writing.db, ref.tenant, 1, len(package.data))
            return True
        _check_same(writing.db, ref, package.digest)
        return False

    def _put_new(self, writing: Writing, tenant: str, new: Mapping[AdapterRef, Candidate]) -> None:
        """Write versions that are known to be new."""
        rows = [row_of(ref, c.package, c.signed, writing.number) for ref, c in new.items()]
        if rows:
            writing.db.execute(adapters.insert(), rows)
            num_bytes = sum(row["num_bytes"] for row in rows)
            self._tenants.charge(writing.db, tenant, len(rows), num_bytes)

    def _numbering(self, db: sa.Connection, tenant: str, names: Iterable[str]) -> Numbering:
        numbering = Numbering(self._tenants.ensured(db, tenant), self._tenants.check_quota)
        asked = sorted(names)
        for first in range(0, len(asked), IN_ONE_QUERY):
            some = adapters.c.name.in_(asked[first : first + IN_ONE_QUERY])
            query = sa.select(*HELD).where(adapters.c.tenant == tenant, some)
            for name, version, digest, gone in db.execute(query):
                numbering.add(name, version, None if gone else digest)
        return numbering

    def _purge(self, db: sa.Connection, which: sa.ColumnElement[bool]) -> int:
        drop = adapters.update().where(which, adapters.c.deleted.is_not(None), HAS_BYTES)
        kept = (TOMBSTONE_BYTES + sa.func.length(adapters.c.manifest)).label("num_kept")
        dropped = drop.values(payload=None, signature=None).returning(
            adapters.c.tenant, adapters.c.num_bytes, kept
        )
        rows = db.execute(dropped).all()
        for row in rows:
            num_more = row.num_kept - row.num_bytes
            self._tenants.charge(db, row.tenant, -1, num_more, is_checked=False)
        return len(rows)


TOMBSTONE_BYTES = 512
"""What the row of a purged version takes in the database, beside its manifest."""
HELD = [adapters.c[name] for name in ("name", "version", "digest", "deleted")]


def _next_version(db: sa.Connection, tenant: str, name: str) -> int:
    newest = sa.select(sa.func.max(adapters.c.version)).where(
        adapters.c.tenant == tenant, adapters.c.name == name
    )
    return (db.scalar(newest) or 0) + 1


def _describe(db: sa.Connection, ref: AdapterRef) -> Entry:
    row = db.execute(live(*ENTRY).where(is_version(ref))).first()
    if row is None:
        raise NotFound(f"no adapter {str(ref)!r}")
    return entry_of(row)


def _check_same(db: sa.Connection, ref: AdapterRef, digest: str) -> None:
    """Raise `Conflict` if *ref* has other bytes, or was deleted."""
    row = db.execute(
        sa.select(adapters.c.digest, adapters.c.deleted).where(is_version(ref))
    ).first()
    if row is not None:
        check_same(ref, None if row.deleted else row.digest, digest)
