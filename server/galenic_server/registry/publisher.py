"""
What comes into the registry and what leaves it: uploads, tried or real, deletions, whole tenants.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
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
from galenic_adapters.factor import Metaprompt
from galenic_adapters.package.file import (
    MAX_FAULTS,
    Package,
    check_fits,
    inspect,
    misfits,
    package_digest,
)
from galenic_adapters.package.manifest import BackboneId, Manifest
from galenic_adapters.package.signature import Signatures, Signed
from galenic_adapters.refs import AdapterRef, check_name
from galenic_server.engine.contract import Engine
from galenic_server.registry import archive
from galenic_server.registry.store import Entry, SqlStore
from galenic_server.registry.versions import Placed, Wanted

BATCH = 200


@dataclass(frozen=True, slots=True)
class Offer:
    """A package as it came. upload: its sender's key for it.   bundle: the signature beside it."""

    tenant: str
    name: str
    data: bytes
    version: int | None = None
    upload: str | None = None
    bundle: bytes | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """is_new: whether this upload made it, and not an earlier one of the same key."""

    entry: Entry
    is_new: bool


@dataclass(frozen=True, slots=True)
class Brought:
    """What an import has brought, or found there already."""

    num_adapters: int = 0
    num_deleted: int = 0
    num_aliases: int = 0
    num_shares: int = 0


class Registry:
    """Checks whatever is to be written, and keeps the engine in step with it."""

    def __init__(
        self,
        store: SqlStore,
        engine: Engine,
        *,
        backbone: BackboneId,
        metaprompt: Metaprompt,
        max_rank: int,
        signatures: Signatures | None = None,
    ) -> None:
        self.store = store
        self.engine = engine
        self.backbone = backbone
        self.metaprompt = metaprompt
        self.max_rank = max_rank
        self.signatures = signatures or Signatures()

    # One package

    async def publish(self, offer: Offer) -> Published:
        """
        Check, write and make servable at once, as its version or as the next one.

        Raises `RejectedUpload`, `QuotaExceeded`, or `Conflict` where it holds other bytes.
        """
        ref, package = await run_sync(self._write, offer)
        entry = await run_sync(self.store.describe, ref)
        # What is written stands: an engine that is away seats it when it is asked for.
        with suppress(Unavailable):
            await self.engine.seat([entry.digest])
        return Published(entry, is_new=package is not None)

    def _write(self, offer: Offer) -> tuple[AdapterRef, Package | None]:
        """Where it is, and what was written; none where an earlier upload of that key did so."""
        id_ = offer.upload or f"auto-{secrets.token_hex(8)}"
        digest = package_digest(offer.data)
        known = self.store.receive(offer.tenant, id_, offer.name, offer.version, digest)
        if known.ref is not None:
            return known.ref, None
        try:
            package, signed = self._checked(offer.data, offer.bundle)
            ref = self.store.publish(
                offer.tenant,
                offer.name,
                package,
                version=offer.version,
                upload=id_,
                signed=signed,
            )
        except RejectedUpload as rejected:
            self.store.fail(offer.tenant, id_, rejected.faults)
            raise
        except (Conflict, QuotaExceeded) as refused:
            self.store.fail(offer.tenant, id_, [Fault("upload", str(refused))])
            raise
        return ref, package

    def _checked(self, data: bytes, bundle: bytes | None) -> tuple[Package, Signed | None]:
        package = Package.read(data)
        self._check_fits(package)
        return package, self.signatures.check(package.digest, bundle)

    def try_out(self, offer: Offer) -> list[Fault]:
        """Everything that an upload of it would be refused for; nothing is written. Blocks."""
        return [
            *self._faults_of_package(offer),
            *_told("signature", lambda: self._check_signature(offer)),
            *_told("name", lambda: check_name("name", offer.name)),
            *_told("version", lambda: self._check_version(offer)),
            *_told("quota", lambda: self.store.check_room(offer.tenant, len(offer.data))),
        ]

    def _faults_of_package(self, offer: Offer) -> Iterator[Fault]:
        found = inspect(offer.data)
        yield from found.faults
        wrong = [] if found.manifest is None else self._misfits(found.manifest)
        yield from wrong
        if not found.faults and not wrong:
            yield from _told("tensors", lambda: self._check_fits(found.package()))

    def _check_signature(self, offer: Offer) -> None:
        self.signatures.check(package_digest(offer.data), offer.bundle)

    def _check_version(self, offer: Offer) -> None:
        if offer.version is not None:
            ref = AdapterRef(offer.tenant, offer.name, offer.version)
            self.store.check_free(ref, package_digest(offer.data))

    def _misfits(self, manifest: Manifest) -> list[Fault]:
        return misfits(manifest, self.backbone, self.metaprompt, self.max_rank)

    def _check_fits(self, package: Package) -> None:
        check_fits(
            package,
            backbone=self.backbone,
            metaprompt=self.metaprompt,
            max_rank=self.max_rank,
        )

    async def delete(self, ref: AdapterRef, *, digest: str | None = None, keep: bool) -> None:
        """Nobody finds it any more; with *keep* it can come back until its retention ends."""
        entry = await run_sync(self.store.describe, ref)
        await run_sync(lambda: self.store.delete(ref, digest=digest, keep=keep))
        await self.engine.evict(entry.digest)

    # Many packages

    async def publish_many(
        self, tenant: str, offers: Sequence[Offer]
    ) -> list[Placed | GalenicError]:
        """
        Check all of them, write those that can be in one transaction, and make them servable.

        Says of each where it is, or why it is not. Raises `Unavailable`, and has written nothing.
        """
        checked = await run_sync(lambda: [self._wanted(offer) for offer in offers])
        wanted = [one for one in checked if isinstance(one, Wanted)]
        placed = await run_sync(self.store.publish_many, tenant, wanted)
        with suppress(Unavailable):
            await self.engine.seat(
                [
                    what.package.digest
                    for what, where in zip(wanted, placed, strict=True)
                    if isinstance(where, Placed)
                ]
            )
        told = iter(placed)
        return [next(told) if isinstance(one, Wanted) else one for one in checked]

    def _wanted(self, offer: Offer) -> Wanted | RejectedUpload:
        try:
            package, signed = self._checked(offer.data, offer.bundle)
        except RejectedUpload as rejected:
            return rejected
        return Wanted(offer.name, package, offer.version, signed)

    # A whole tenant

    def bring(self, tenant: str, lines: Callable[[], Iterable[bytes]]) -> Brought:
        """
        What an archive holds, as *tenant*'s; what is there already is no change. Blocks.

        All of it is checked as uploads are before the first of it is written. Raises
        `RejectedUpload` with the faults by line, `BadInput` where it is no archive.
        """
        faults = list(self._faults_of_archive(tenant, archive.read(lines())))
        if faults:
            raise RejectedUpload(*faults[:MAX_FAULTS])
        brought = Brought()
        for batch in _batches(item for _, item in archive.read(lines())):
            brought = self._bring_batch(tenant, batch, brought)
        return brought

    def _faults_of_archive(
        self, tenant: str, items: Iterable[tuple[int, archive.Item]]
    ) -> Iterator[Fault]:
        for number, item in items:
            for fault in _told("", partial(self._check_item, tenant, item)):
                yield Fault(f"line[{number}].{fault.path}".rstrip("."), fault.problem)

    def _check_item(self, tenant: str, item: archive.Item) -> None:
        if isinstance(item, archive.Adapter):
            data = item.data()
            self._checked(data, item.signature.encode() if item.signature else None)
            self.store.check_free(AdapterRef(tenant, item.name, item.version), item.digest)

    def _bring_batch(self, tenant: str, batch: list[archive.Item], before: Brought) -> Brought:
        adapters = [item for item in batch if isinstance(item, archive.Adapter)]
        tombs = [item for item in batch if isinstance(item, archive.Deleted)]
        pointers = [item for item in batch if isinstance(item, archive.Pointer)]
        lent = [item for item in batch if isinstance(item, archive.Lent)]
        packages, signed = self._packages(tenant, adapters)
        self.store.put_many(packages, signed=signed)
        self.store.bury(
            {AdapterRef(tenant, t.name, t.version): (t.digest, t.manifest) for t in tombs}
        )
        for pointer in pointers:
            ref, canary = pointer.target(tenant)
            self.store.move_alias(tenant, pointer.alias, ref, canary=canary)
        for share in lent:
            self.store.share(tenant, share.name, share.tenants)
        return Brought(
            before.num_adapters + len(adapters),
            before.num_deleted + len(tombs),
            before.num_aliases + len(pointers),
            before.num_shares + len(lent),
        )

    def _packages(
        self, tenant: str, items: Iterable[archive.Adapter]
    ) -> tuple[dict[AdapterRef, Package], dict[AdapterRef, Signed]]:
        packages, signatures = {}, {}
        for item in items:
            ref = AdapterRef(tenant, item.name, item.version)
            bundle = item.signature.encode() if item.signature else None
            packages[ref], signed = self._checked(item.data(), bundle)
            if signed is not None:
                signatures[ref] = signed
        return packages, signatures


def _batches(items: Iterable[archive.Item]) -> Iterator[list[archive.Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def _told(path: str, check: Callable[[], object]) -> Iterator[Fault]:
    """What *check* raises, as faults; of those without a path of their own, at *path*."""
    try:
        check()
    except RejectedUpload as rejected:
        yield from rejected.faults
    except BadInput as error:
        yield Fault(path, error.problem)
    except (Conflict, QuotaExceeded) as error:
        yield Fault(path, str(error))
