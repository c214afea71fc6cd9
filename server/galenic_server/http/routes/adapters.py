"""
Versions of adapters: uploaded, tried out, listed, fetched, deleted and brought back.
"""

import base64
import binascii
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import Depends, Header, Query, Request, Response

from galenic_adapters.errors import BadInput
from galenic_adapters.package.file import package_digest
from galenic_adapters.refs import AdapterRef
from galenic_server.http.deps import RegistryDep, TenantDep
from galenic_server.http.faults import WrongMedia
from galenic_server.http.routes.admin import admin_router
from galenic_server.http.routes.conditions import DigestDep
from galenic_server.registry.publisher import Offer, Registry
from galenic_server.registry.store import Entry
from galenic_server.registry.uploads import State, Upload
from galenic_server.schemas.admin import AdapterInfo, AdapterPage, TriedOut, UploadInfo

router = admin_router()

MEDIA = ("application/octet-stream", "application/vnd.safetensors", "application/safetensors")
PACKAGE = {
    "requestBody": {
        "required": True,
        "content": {MEDIA[0]: {"schema": {"type": "string", "format": "binary"}}},
    }
}


async def _package_bytes(request: Request) -> bytes:
    media = request.headers.get("content-type", MEDIA[0]).partition(";")[0].strip().lower()
    if media not in MEDIA:
        raise WrongMedia(f"send the package as {MEDIA[0]}")
    if not (data := await request.body()):
        raise BadInput("package", "is empty")
    return data


def _bundle(x_galenic_signature: Annotated[str | None, Header()] = None) -> bytes | None:
    """The signature's bundle, which travels as base64 beside the package."""
    if x_galenic_signature is None:
        return None
    try:
        return base64.b64decode(x_galenic_signature, validate=True)
    except (binascii.Error, ValueError):
        raise BadInput("x-galenic-signature", "is no base64") from None


class Sent:
    """What comes with an upload, whatever its version."""

    def __init__(
        self,
        name: str,
        tenant: TenantDep,
        data: Annotated[bytes, Depends(_package_bytes)],
        bundle: Annotated[bytes | None, Depends(_bundle)],
        idempotency_key: Annotated[str | None, Header(max_length=128)] = None,
    ) -> None:
        self.name, self.tenant, self.data = name, tenant, data
        self.bundle, self.key = bundle, idempotency_key

    def offer(self, version: int | None = None) -> Offer:
        return Offer(self.tenant, self.name, self.data, version, self.key, self.bundle)


SentDep = Annotated[Sent, Depends()]
Limit = Annotated[int, Query(ge=1, le=1000)]


async def _info(registry: Registry, entry: Entry) -> AdapterInfo:
    seen = await run_sync(registry.store.seen_by_all)
    return AdapterInfo.of(entry, seen, registry.signatures.policy)


async def _publish(registry: Registry, offer: Offer, response: Response) -> AdapterInfo:
    made = await registry.publish(offer)
    response.headers["etag"] = f'"{made.entry.digest}"'
    if not made.is_new:
        response.headers["idempotency-replayed"] = "true"
    return await _info(registry, made.entry)


@router.put("/adapters/{name}", status_code=201, openapi_extra=PACKAGE)
async def publish(sent: SentDep, registry: RegistryDep, response: Response) -> AdapterInfo:
    """
    Publish a package as the next version of *name*; it answers at once.

    Under one Idempotency-Key it makes one version, however often it is sent.
    """
    return await _publish(registry, sent.offer(), response)


@router.put("/adapters/{name}/{version:int}", status_code=201, openapi_extra=PACKAGE)
async def put(
    version: int, sent: SentDep, registry: RegistryDep, response: Response
) -> AdapterInfo:
    """Publish a package as this version; the same bytes again change nothing, others are a 412."""
    return await _publish(registry, sent.offer(version), response)


@router.post("/adapters/{name}/try", openapi_extra=PACKAGE)
async def try_out(
    sent: SentDep,
    registry: RegistryDep,
    version: Annotated[int | None, Query(ge=1, lt=10**9)] = None,
) -> TriedOut:
    """Every fault that an upload of this package would be refused for; nothing is written."""
    faults = await run_sync(registry.try_out, sent.offer(version))
    return TriedOut.of(package_digest(sent.data), faults)


@router.get("/adapters")
async def list_adapters(
    tenant: TenantDep,
    registry: RegistryDep,
    after: Annotated[str | None, Query(max_length=80)] = None,
    limit: Limit = 100,
    deleted: bool = False,
) -> AdapterPage:
    """A tenant's adapters by name and version; with *deleted*, those that can be brought back."""
    last, store = AdapterRef.parse(tenant, after) if after else None, registry.store
    entries = await run_sync(
        lambda: store.owned_by(tenant, after=last, limit=limit + 1, are_deleted=deleted)
    )
    seen, policy = await run_sync(store.seen_by_all), registry.signatures.policy
    page = [AdapterInfo.of(entry, seen, policy) for entry in entries[:limit]]
    return AdapterPage(
        adapters=page, next=str(entries[limit - 1].ref) if len(entries) > limit else None
    )


@router.get("/adapters/{name}")
async def get_current(
    name: str, tenant: TenantDep, registry: RegistryDep, response: Response
) -> AdapterInfo:
    """What *name* means to the tenant just now: its alias, or its newest version."""
    found = await run_sync(registry.store.resolve, tenant, name)
    return await _described(registry, found.ref, response)


@router.get("/adapters/{name}/{version:int}")
async def describe(
    name: str, version: int, tenant: TenantDep, registry: RegistryDep, response: Response
) -> AdapterInfo:
    return await _described(registry, AdapterRef(tenant, name, version), response)


async def _described(registry: Registry, ref: AdapterRef, response: Response) -> AdapterInfo:
    entry = await run_sync(registry.store.describe, ref)
    response.headers["etag"] = f'"{entry.digest}"'
    return await _info(registry, entry)


@router.get("/adapters/{name}/{version:int}/package", response_class=Response)
async def download(name: str, version: int, tenant: TenantDep, registry: RegistryDep) -> Response:
    """The package's bytes, as they were published."""
    package = await run_sync(registry.store.get, AdapterRef(tenant, name, version))
    return Response(package.data, media_type=MEDIA[0], headers={"etag": f'"{package.digest}"'})


@router.delete("/adapters/{name}/{version:int}", status_code=204, response_class=Response)
async def delete(
    name: str,
    version: int,
    tenant: TenantDep,
    registry: RegistryDep,
    digest: DigestDep,
    purge: bool = False,
) -> None:
    """
    Delete a version; its number stays taken. A 412 while an alias points to it.

    It can be brought back until its retention ends; with *purge* it is gone at once.
    """
    await registry.delete(AdapterRef(tenant, name, version), digest=digest, keep=not purge)


@router.post("/adapters/{name}/{version:int}/undelete")
async def undelete(
    name: str, version: int, tenant: TenantDep, registry: RegistryDep
) -> AdapterInfo:
    """Bring back a deleted version, as it was."""
    ref = AdapterRef(tenant, name, version)
    return await _info(registry, await run_sync(registry.store.undelete, ref))


@router.get("/uploads")
async def list_uploads(
    tenant: TenantDep, registry: RegistryDep, limit: Limit = 100
) -> list[UploadInfo]:
    """The tenant's uploads of the last days, the newest first; those that failed say why."""
    found = await run_sync(registry.store.uploads, tenant, limit)
    return [UploadInfo.of(upload) for upload in found]


@router.get("/uploads/{upload_id}")
async def get_upload(upload_id: str, tenant: TenantDep, registry: RegistryDep) -> UploadInfo:
    """One upload by its Idempotency-Key: received, checked, ready everywhere, or failed."""
    upload = await run_sync(registry.store.upload, tenant, upload_id)
    return UploadInfo.of(upload, is_ready=await run_sync(_is_ready, registry, upload))


def _is_ready(registry: Registry, upload: Upload) -> bool:
    if upload.ref is None or upload.state is not State.CHECKED:
        return False
    return registry.store.describe(upload.ref).change <= registry.store.seen_by_all()
