"""
Factors by their package's digest: what an engine loads, at its start and on demand.

Packages were checked when they were written; of their bytes only the digest is checked again.
"""

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from galenic_adapters.errors import NotFound
from galenic_adapters.factor import Factor
from galenic_adapters.package.file import checked_factor, package_digest
from galenic_adapters.package.manifest import DIGEST, BackboneId
from galenic_server.database.database import Database
from galenic_server.database.tables import adapters
from galenic_server.registry.rows import IN_ONE_QUERY, intact, live

# Written so that SQLite does not use the index of deleted rows, which reads all live ones.
IS_LIVE = sa.case((adapters.c.deleted.is_(None), 1), else_=0) == 1


class Factors:
    """Reads factors, and finds the digests of those worth loading."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, digest: str) -> Factor:
        """Return a factor; raises `NotFound`, or `Unavailable` where its bytes are damaged."""
        query = live(adapters.c.payload).where(adapters.c.digest == digest).limit(1)
        with self._database.reading() as db:
            payload: bytes | None = db.scalar(query) if DIGEST.fullmatch(digest) else None
        if payload is None:
            raise NotFound(f"no adapter of digest {digest[:80]!r}")
        return checked_factor(intact(digest, payload))

    def get_many(self, digests: Sequence[str]) -> dict[str, Factor]:
        """
        Return the factors of these digests, in order.

        Missing and damaged packages are left out; `get` raises for them.
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

    def newest(
        self,
        backbone: BackboneId,
        metaprompt: str,
        limit: int,
        *,
        among: Sequence[str] | None = None,
    ) -> list[str]:
        """
        Return the digests of *limit* adapters for this backbone and metaprompt, the newest first.

        With *among*, only those of them that are among these digests.
        """
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
        """Return the digests of the versions that these changes wrote and that still exist."""
        wanted, found = list(numbers), list[str]()
        with self._database.reading() as db:
            for first in range(0, len(wanted), IN_ONE_QUERY):
                some = adapters.c.change.in_(wanted[first : first + IN_ONE_QUERY])
                found += db.scalars(sa.select(adapters.c.digest).where(some, IS_LIVE))
        return found
