"""
Writes, finds and reads versions as rows of the table `adapters`.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from galenic_adapters.errors import Unavailable
from galenic_adapters.package.file import Package, package_digest
from galenic_adapters.package.manifest import Manifest
from galenic_adapters.package.signature import Signed
from galenic_adapters.refs import AdapterRef
from galenic_server.database.changes import now
from galenic_server.database.tables import adapters

ENTRY = [c for c in adapters.c if c.name not in ("payload", "signature")]
HAS_BYTES = adapters.c.payload.is_not(None)
IN_ONE_QUERY = 500
"""The most values in one query; databases bound the number of parameters."""


@dataclass(frozen=True, slots=True)
class Entry:
    """
    Describes a version without its tensors.

    change: the number of the change that wrote it.   signed_by: the verified signer, if any.
    """

    ref: AdapterRef
    digest: str
    manifest: Manifest
    num_bytes: int
    created: datetime
    change: int = 0
    signed_by: str | None = None
    deleted: datetime | None = None


def row_of(ref: AdapterRef, package: Package, signed: Signed | None, change: int) -> dict[str, Any]:
    """Return the row of a new version."""
    return _row(ref, package.digest, package.manifest) | {
        "num_bytes": len(package.data),
        "change": change,
        "signed_by": signed and signed.by,
        "signature": signed and signed.bundle,
        "payload": package.data,
    }


def tombstone_of(ref: AdapterRef, digest: str, manifest: Manifest) -> dict[str, Any]:
    """Return the row of a version that was deleted and purged: its number stays taken."""
    return _row(ref, digest, manifest) | {"num_bytes": 0, "deleted": now()}


def _row(ref: AdapterRef, digest: str, manifest: Manifest) -> dict[str, Any]:
    return {
        "tenant": ref.tenant,
        "name": ref.name,
        "version": ref.version,
        "digest": digest,
        "manifest": manifest.model_dump_json(),
        "created": now(),
    }


def live(*columns: sa.Column[Any]) -> sa.Select[Any]:
    """Select versions that are not deleted."""
    return sa.select(*columns).where(adapters.c.deleted.is_(None))


def deleted(*columns: sa.Column[Any]) -> sa.Select[Any]:
    """Select versions that were deleted and not yet purged."""
    return sa.select(*columns).where(adapters.c.deleted.is_not(None), HAS_BYTES)


def is_version(ref: AdapterRef) -> sa.ColumnElement[bool]:
    return sa.and_(
        adapters.c.tenant == ref.tenant,
        adapters.c.name == ref.name,
        adapters.c.version == ref.version,
    )


def entry_of(row: Any) -> Entry:
    return Entry(
        AdapterRef(row.tenant, row.name, row.version),
        row.digest,
        manifest_of(row.manifest),
        row.num_bytes,
        row.created,
        row.change,
        row.signed_by,
        row.deleted,
    )


@lru_cache(maxsize=4096)
def manifest_of(text: str) -> Manifest:
    return Manifest.model_validate_json(text)


def intact(digest: str, payload: bytes) -> bytes:
    """Return *payload*; raises `Unavailable` if it no longer hashes to its digest."""
    if package_digest(payload) != digest:
        raise Unavailable(f"the stored bytes of {digest} are damaged")
    return payload
