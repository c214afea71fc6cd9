"""
Adapters by the thousand: what a server seats at its start, and what comes in bulk.

Of bytes that were checked when they were written only the digest is checked again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import sqlalchemy as sa

from galenic_adapters.errors import Conflict, QuotaExceeded
from galenic_adapters.factor import Factor
from galenic_adapters.package.file import Package, checked_factor, package_digest
from galenic_adapters.package.manifest import BackboneId
from galenic_adapters.package.signature import Signed
from galenic_adapters.refs import AdapterRef, check_name
from galenic_server.audit.chain import note
from galenic_server.database.changes import Kind, now
from galenic_server.database.tables import adapters, tenants
from galenic_server.registry.uploads import SqlUploads
from galenic_server.tenancy.tenants import Tenant, tenant_of

IN_ONE_QUERY = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """A package to be written; without a *version*, as the next one of its name."""

    name: str
    package: Package
    version: int | None = None
    signed: Signed | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """Where its bytes are; *is_new* where they were not there before."""

    ref: AdapterRef
    is_new: bool


Refused = Conflict | QuotaExceeded


class SqlMany(SqlUploads):
    """The part of the store that reads and writes many adapters at a time."""

    def newest(
        self,
        backbone: BackboneId,
        metaprompt: str,
        limit: int,
        *,
        among: Sequence[str] | None = None,
    ) -> list[str]:
        """Digests of what was made for these two, the newest first; *among* a few, if given."""
        query = sa.select(adapters.c.digest).where(
            IS_LIVE,
            # Manifests are written by pydantic, in which no string holds a bare quotation mark.
            adapters.c.manifest.contains(f'"metaprompt":"{metaprompt}"', autoescape=True),
            adapters.c.manifest.contains(
                f'"backbone":{backbone.model_dump_json()}', autoescape=True
            ),
        )
        if among is not None:
            query = query.where(adapters.c.digest.in_(among))
        with self._database.reading() as db:
            found = db.scalars(query.order_by(adapters.c.change.desc()).limit(limit))
            return list(dict.fromkeys(found))

    def brought_by(self, numbers: Iterable[int]) -> list[str]:
        """Digests of the versions that came with these changes and are there still."""
        wanted, found = list(numbers), list[str]()
        with self._database.reading() as db:
            for first in range(0, len(wanted), IN_ONE_QUERY):
                some = adapters.c.change.in_(wanted[first : first + IN_ONE_QUERY])
                found += db.scalars(sa.select(adapters.c.digest).where(some, IS_LIVE))
        return found

    def factors(self, digests: Sequence[str]) -> dict[str, Factor]:
        """
        Those that are there, whole, in that order; a damaged one is left to who asks it alone.
        """
        found: dict[str, Factor] = {}
        with self._database.reading() as db:
            for first in range(0, len(digests), IN_ONE_QUERY):
                some = adapters.c.digest.in_(digests[first : first + IN_ONE_QUERY])
                query = sa.select(adapters.c.digest, adapters.c.payload).where(some, IS_LIVE)
                for digest, payload in db.execute(query):
                    if digest not in found and package_digest(payload) == digest:
                        found[digest] = checked_factor(payload)
        return {digest: found[digest] for digest in digests if digest in found}

    def publish_many(self, tenant: str, wanted: Sequence[Wanted]) -> list[Placed | Refused]:
        """
        Write all that can be, in one transaction, and say of each where it is or why it is not.

        Bytes that a name has already are not written again, so that twice is as once.
        """
        with self._changing(Kind.ADAPTER, check_name("tenant", tenant)) as writing:
            shelf = self._shelf(writing.db, tenant, {one.name for one in wanted})
            told = [shelf.place(one) for one in wanted]
            new = {
                one.ref: what
                for one, what in zip(told, wanted, strict=True)
                if isinstance(one, Placed) and one.is_new
            }
            writing.is_change = bool(new)
            if new:
                rows = [row_of(r, w.package, w.signed, writing.number) for r, w in new.items()]
                writing.db.execute(adapters.insert(), rows)
                self._charge(writing.db, tenant, len(new), sum(row["num_bytes"] for row in rows))
            note(digests={str(ref): what.package.digest for ref, what in new.items()})
        return told

    def _shelf(self, db: sa.Connection, tenant: str, names: Iterable[str]) -> "Shelf":
        self._ensure_tenant(db, tenant)
        kept = tenant_of(db.execute(sa.select(tenants).where(tenants.c.name == tenant)).one())
        shelf, asked = Shelf(kept, self._check_quota), sorted(names)
        for first in range(0, len(asked), IN_ONE_QUERY):
            some = adapters.c.name.in_(asked[first : first + IN_ONE_QUERY])
            query = sa.select(*THERE).where(adapters.c.tenant == tenant, some)
            for name, version, digest, deleted in db.execute(query):
                shelf.add(name, version, There(digest, deleted is not None))
        return shelf


# Said so that SQLite does not go by the index of what is deleted, past every row that is not.
IS_LIVE = sa.case((adapters.c.deleted.is_(None), 1), else_=0) == 1
THERE = [adapters.c[name] for name in ("name", "version", "digest", "deleted")]


class There(NamedTuple):
    """What a version is; once deleted, its number is not given again."""

    digest: str
    is_deleted: bool

    def check_same(self, ref: AdapterRef, digest: str) -> None:
        """Raises `Conflict` where *ref*, which is this, could not be written with these bytes."""
        if self.is_deleted:
            raise Conflict(f"{ref} was deleted; its number is not given again")
        if self.digest != digest:
            raise Conflict(f"{ref} is {self.digest} and never changes; these bytes are {digest}")


@dataclass(slots=True)
class Shelf:
    """What a tenant has of some names, and how much it keeps, while more is put beside it."""

    kept: Tenant
    check: Callable[[Tenant], None]  # raises `QuotaExceeded`
    there: dict[str, dict[int, There]] = field(default_factory=dict)

    def add(self, name: str, version: int, what: There) -> None:
        self.there.setdefault(name, {})[version] = what

    def place(self, one: Wanted) -> Placed | Refused:
        version = one.version or self._version(one)
        ref = AdapterRef(self.kept.name, one.name, version)
        try:
            if found := self.there.get(one.name, {}).get(version):
                found.check_same(ref, one.package.digest)
                return Placed(ref, is_new=False)
            self._count(len(one.package.data))
        except (Conflict, QuotaExceeded) as refused:
            return refused
        self.add(one.name, version, There(one.package.digest, is_deleted=False))
        return Placed(ref, is_new=True)

    def _version(self, one: Wanted) -> int:
        """The newest that holds these bytes, else the next."""
        versions = self.there.get(one.name, {})
        same = There(one.package.digest, is_deleted=False)
        holding = [version for version, found in versions.items() if found == same]
        return max(holding, default=max(versions, default=0) + 1)

    def _count(self, num_bytes: int) -> None:
        kept = self.kept
        after = replace(
            kept, num_adapters=kept.num_adapters + 1, num_bytes=kept.num_bytes + num_bytes
        )
        self.check(after)
        self.kept = after


def row_of(
    ref: AdapterRef, package: Package, signed: Signed | None, change: int
) -> Mapping[str, Any]:
    return {
        "tenant": ref.tenant,
        "name": ref.name,
        "version": ref.version,
        "digest": package.digest,
        "manifest": package.manifest.model_dump_json(),
        "num_bytes": len(package.data),
        "created": now(),
        "change": change,
        "signed_by": signed and signed.by,
        "signature": signed and signed.bundle,
        "payload": package.data,
    }
