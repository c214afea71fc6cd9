"""
Publishes uploads: checks, writes and seats one package, many, or a whole archive.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice

from anyio.to_thread import run_sync

from galenic_adapters.errors import (
    BadInput,
    Conflict,
    Fault,
    GalenicError,
    QuotaExceeded,
    RejectedUpload,
    Unavailable,
)
from galenic_adapters.package.file import (
    MAX_FAULTS,
    Fit,
    Package,
    inspect,
    package_digest,
)
from galenic_adapters.package.manifest import Manifest
from galenic_adapters.package.signature import Signatures, Signed
from galenic_adapters.refs import AdapterRef, check_name
from galenic_server.engine.contract import Engine
from galenic_server.registry import archive
from galenic_server.registry.offers import Candidate, Offer, Published
from galenic_server.registry.store import Store

BATCH = 200


class Publisher:
    """Checks packages before they are written, and keeps the engine in step with the store."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        *,
        fit: Fit,
        signatures: Signatures | None = None,
    ) -> None:
        self._store = store
        self.engine = engine
        self.fit = fit
        self.signatures = signatures or Signatures()

    # One package

    async def publish(self, offer: Offer) -> Published:
        """
        Check, write and seat a package, as its version or as the next one.

        It is not new if an earlier upload with the same key made it. Raises `RejectedUpload`,
        `QuotaExceeded`, or `Conflict` if its version has other bytes.
        """
        ref, package = await run_sync(self._write, offer)
        # If the engine is away or full, it seats the adapter later, at its first request: an upload
        # evicts no other tenant's.
        with suppress(Unavailable):
            await self.engine.seat([package_digest(offer.data)], may_evict=False)
        return Published(ref, is_new=package is not None)

    def _write(self, offer: Offer) -> tuple[AdapterRef, Package | None]:
        """Write a package, and return it; None if an earlier upload with its key did so."""
        id_ = offer.upload or f"auto-{secrets.token_hex(8)}"
        digest, uploads = package_digest(offer.data), self._store.uploads
        known = uploads.receive(offer.tenant, id_, offer.name, offer.version, digest)
        if known.ref is not None:
            return known.ref, None
        try:
            checked = self._checked(offer)
            ref = self._store.versions.publish(
                offer.tenant,
                offer.name,
                checked.package,
                version=offer.version,
                upload=id_,
                signed=checked.signed,
            )
        except RejectedUpload as rejected:
            uploads.fail(offer.tenant, id_, rejected.faults)
            raise
        except (Conflict, QuotaExceeded) as refused:
            uploads.fail(offer.tenant, id_, [Fault("upload", str(refused))])
            raise
        return ref, checked.package

    def _checked(self, offer: Offer) -> Candidate:
        """Check that the package is valid, fits this server, and is signed as required."""
        package = Package.read(offer.data)
        self._check_fits(package)
        signed = self._check_signature(offer)
        return Candidate(offer.name, package, offer.version, signed)

    def try_out(self, offer: Offer) -> list[Fault]:
        """Return every fault that would reject the upload, and write nothing. Blocks."""
        room = self._store.tenants.check_room
        return [
            *self._faults_of_package(offer),
            *_faults_at("signature", lambda: self._check_signature(offer)),
            *_faults_at("name", lambda: check_name("name", offer.name)),
            *_faults_at("version", lambda: self._check_version(offer)),
            *_faults_at("quota", lambda: room(offer.tenant, len(offer.data))),
        ]

    def _faults_of_package(self, offer: Offer) -> Iterator[Fault]:
        found = inspect(offer.data)
        yield from found.faults
        wrong = [] if found.manifest is None else self._misfits(found.manifest)
        yield from wrong
        if not found.faults and not wrong:
            yield from _faults_at("tensors", lambda: self._check_fits(found.package()))

    def _check_signature(self, offer: Offer) -> Signed | None:
        digest = package_digest(offer.data)
        return self.signatures.check(digest, offer.bundle, offer.use, is_late=offer.is_late)

    def _check_version(self, offer: Offer) -> None:
        if offer.version is not None:
            ref = AdapterRef(offer.tenant, offer.name, offer.version)
            self._store.versions.check_free(ref, package_digest(offer.data))

    def _misfits(self, manifest: Manifest) -> list[Fault]:
        return self.fit.misfits(manifest)

    def _check_fits(self, package: Package) -> None:
        self.fit.check(package)

    async def delete(self, ref: AdapterRef, *, digest: str | None = None, keep: bool) -> None:
        """Delete a version and evict it; with *keep* it can be restored until it is purged."""
        versions = self._store.versions
        entry = await run_sync(versions.describe, ref)
        await run_sync(lambda: versions.delete(ref, digest=digest, keep=keep))
        await self.engine.evict(entry.digest)

    # Many packages

    async def publish_many(
        self, tenant: str, offers: Sequence[Offer]
    ) -> list[Published | GalenicError]:
        """
        Check all packages, write the valid ones in one transaction, and seat them.

        Returns for each where it is stored, or why not. Raises `Unavailable` if none was written.
        """
        checked = await run_sync(lambda: [self._checked_or_not(offer) for offer in offers])
        candidates = [result for result in checked if isinstance(result, Candidate)]
        placed = await run_sync(self._store.versions.publish_many, tenant, candidates)
        with suppress(Unavailable):
            await self.engine.seat(
                [
                    what.package.digest
                    for what, where in zip(candidates, placed, strict=True)
                    if isinstance(where, Published)
                ],
                may_evict=False,
            )
        outcomes = iter(placed)
        return [next(outcomes) if isinstance(result, Candidate) else result for result in checked]

    def _checked_or_not(self, offer: Offer) -> Candidate | RejectedUpload:
        try:
            return self._checked(offer)
        except RejectedUpload as rejected:
            return rejected

    # A whole tenant

    def bring(self, tenant: str, lines: Callable[[], Iterable[bytes]]) -> Counter[str]:
        """
        Import an archive as *tenant*'s, and count its items by kind. Blocks.

        All of it is checked, as uploads are, before anything is written; existing versions are
        kept. Raises `RejectedUpload` with the faults by line, `BadInput` if it is no archive.
        """
        faults = list(self._faults_of_archive(tenant, archive.read(lines())))
        if faults:
            raise RejectedUpload(*faults[:MAX_FAULTS])
        counts = Counter[str]()
        for batch in _batches(item for _, item in archive.read(lines())):
            self._bring_batch(tenant, batch)
            counts.update(item.kind for item in batch)
        return counts

    def _faults_of_archive(
        self, tenant: str, items: Iterable[tuple[int, archive.Item]]
    ) -> Iterator[Fault]:
        for number, item in items:
            for fault in _faults_at("", partial(self._check_item, tenant, item)):
                yield Fault(f"line[{number}].{fault.path}".rstrip("."), fault.problem)

    def _check_item(self, tenant: str, item: archive.Item) -> None:
        if isinstance(item, archive.Adapter):
            self._checked(item.offer(tenant))
            self._store.versions.check_free(item.ref(tenant), item.digest)

    def _bring_batch(self, tenant: str, batch: list[archive.Item]) -> None:
        packages, signed = self._packages(tenant, batch)
        self._store.versions.put_many(packages, signed=signed)
        tombs = [item for item in batch if isinstance(item, archive.Deleted)]
        self._store.versions.bury({t.ref(tenant): (t.digest, t.manifest) for t in tombs})
        for item in batch:
            if isinstance(item, archive.Pointer):
                ref, canary = item.target(tenant)
                self._store.aliases.move(tenant, item.alias, ref, canary=canary)
        for item in batch:
            if isinstance(item, archive.Lent):
                self._store.shares.put(tenant, item.name, item.tenants)

    def _packages(
        self, tenant: str, batch: Iterable[archive.Item]
    ) -> tuple[dict[AdapterRef, Package], dict[AdapterRef, Signed]]:
        adapters = [item for item in batch if isinstance(item, archive.Adapter)]
        checked = {item.ref(tenant): self._checked(item.offer(tenant)) for item in adapters}
        packages = {ref: candidate.package for ref, candidate in checked.items()}
        return packages, {ref: c.signed for ref, c in checked.items() if c.signed}


def _batches(items: Iterable[archive.Item]) -> Iterator[list[archive.Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def _faults_at(path: str, check: Callable[[], object]) -> Iterator[Fault]:
    """Run *check*, and yield what it raises as faults; those without a path get *path*."""
    try:
        check()
    except RejectedUpload as rejected:
        yield from rejected.faults
    except BadInput as error:
        yield Fault(path, error.problem)
    except (Conflict, QuotaExceeded) as error:
        yield Fault(path, str(error))
