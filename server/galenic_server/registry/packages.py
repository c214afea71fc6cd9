"""
Reads packages by their digest, to compose them for an engine.

They were checked when they were written, so only the digest of their bytes is checked again.
"""

from collections.abc import Collection, Iterable, Sequence

import sqlalchemy as sa

from galenic_adapters.errors import NotFound
from galenic_adapters.package.file import Package, package_digest
from galenic_adapters.package.manifest import DIGEST, BackboneId
from galenic_server.database.database import Database
from galenic_server.database.tables import adapters
from galenic_server.registry.rows import IN_ONE_QUERY, intact, live

# A CASE, so that SQLite does not use the index on `deleted`, by which it would read all live rows.
IS_LIVE = sa.case((adapters.c.deleted.is_(None), 1), else_=0) == 1


class Packages:
    """Reads packages, and finds the digests of those worth loading."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, digest: str) -> Package:
        """Return a package; raises `NotFound`, or `Unavailable` if its bytes are damaged."""
        query = live(adapters.c.payload).where(adapters.c.digest == digest).limit(1)
        with self._database.reading() as db:
            payload: bytes | None = db.scalar(query) if DIGEST.fullmatch(digest) else None
        if payload is None:
            raise NotFound(f"no adapter of digest {digest[:80]!r}")
        return Package.trusted(intact(digest, payload))

    def get_many(self, digests: Sequence[str]) -> dict[str, Package]:
        """
        Return the packages of these digests, in order.

        Missing and damaged packages are left out; `get` raises for them.
        """
        found: dict[str, Package] = {}
        with self._database.reading() as db:
            for first in range(0, len(digests), IN_ONE_QUERY):
                some = adapters.c.digest.in_(digests[first : first + IN_ONE_QUERY])
                query = sa.select(adapters.c.digest, adapters.c.payload).where(some, IS_LIVE)
                for digest, payload in db.execute(query):
                    if digest not in found and package_digest(payload) == digest:
                        found[digest] = Package.trusted(payload)
        return {digest: found[digest] for digest in digests if digest in found}

    def newest(
        self,
        backbone: BackboneId,
        metaprompts: Collection[str],
        limit: int,
        *,
        among: Sequence[str] | None = None,
    ) -> list[str]:
        """
        Return the digests of *limit* adapters that fit this backbone, the newest first.

        They need one of *metaprompts*, or none. With *among*, only these digests are considered.
        """
        made_for = ["null", *(f'"{digest}"' for digest in metaprompts)]
        manifest = adapters.c.manifest
        query = sa.select(adapters.c.digest).where(
            IS_LIVE,
            # Safe: manifests are JSON by pydantic, where strings hold no bare quotation mark.
            sa.or_(*(manifest.contains(f'"metaprompt":{m}', autoescape=True) for m in made_for)),
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
        """Return the digests of the versions that these changes wrote and that still exist."""
        wanted, found = list(numbers), list[str]()
        with self._database.reading() as db:
            for first in range(0, len(wanted), IN_ONE_QUERY):
                some = adapters.c.change.in_(wanted[first : first + IN_ONE_QUERY])
                found += db.scalars(sa.select(adapters.c.digest).where(some, IS_LIVE))
        return found
