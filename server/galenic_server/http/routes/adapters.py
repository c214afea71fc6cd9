"""
Routes for versions of adapters: upload, try out, list, fetch, delete, restore.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import Depends, Header, Query, Request, Response

from galenic_adapters.errors import BadInput
from galenic_adapters.package.file import package_digest
from galenic_adapters.refs import AdapterRef
from galenic_server.http.auth import TenantDep
from galenic_server.http.faults import WrongMedia
from galenic_server.http.routes.admin import admin_router
from galenic_server.http.routes.conditions import DigestDep
from galenic_server.http.stores import (
    NamesDep,
    PublisherDep,
    ReplicasDep,
    UploadsDep,
    VersionsDep,
)
from galenic_server.registry.offers import Offer
from galenic_server.registry.publisher import Publisher
from galenic_server.registry.rows import Entry
from galenic_server.registry.uploads import State
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
    """Decode the signature's bundle, which is sent as base64 in a header."""
    if x_galenic_signature is None:
        return None
    try:
        return base64.b64decode(x_galenic_signature, validate=True)
    except (binascii.Error, ValueError):
        raise BadInput("x-galenic-signature", "is no base64") from None


async def _offer(
    name: str,
    tenant: TenantDep,
    data: Annotated[bytes, Depends(_package_bytes)],
    bundle: Annotated[bytes | None, Depends(_bundle)],
    idempotency_key: Annotated[str | None, Header(max_length=128)] = None,
) -> Offer:
    """Collect the upload; a route with a version in its path adds that."""
    return Offer(tenant, name, data, upload=idempotency_key, bundle=bundle)


OfferDep = Annotated[Offer, Depends(_offer)]
Limit = Annotated[int, Query(ge=1, le=1000)]


class Describer:
    """Describes versions, with their state on all replicas and this server's signature policy."""

    def __init__(
        self, versions: VersionsDep, replicas: ReplicasDep, publisher: PublisherDep
    ) -> None:
        self._versions = versions
        self._replicas = replicas
        self._policy = publisher.signatures.policy

    async def many(self, entries: Sequence[Entry]) -> list[AdapterInfo]:
        seen = await run_sync(self._replicas.seen_by_all)
        return [AdapterInfo.of(entry, seen, self._policy) for entry in entries]

    async def one(self, ref: AdapterRef) -> AdapterInfo:
        [info] = await self.many([await run_sync(self._versions.describe, ref)])
        return info


DescriberDep = Annotated[Describer, Depends()]


def _tagged(info: AdapterInfo, response: Response) -> AdapterInfo:
    response.headers["etag"] = f'"{info.digest}"'
    return info


async def _publish(
    offer: Offer, publisher: Publisher, describer: Describer, response: Response
) -> AdapterInfo:
    published = await publisher.publish(offer)
    if not published.is_new:
        response.headers["idempotency-replayed"] = "true"
    return _tagged(await describer.one(published.ref), response)


@router.put("/adapters/{name}", status_code=201, openapi_extra=PACKAGE)
async def publish(
    offer: OfferDep, publisher: PublisherDep, describer: DescriberDep, response: Response
) -> AdapterInfo:
    """
    Publish a package as the next version of *name*; it answers requests at once.

    With an Idempotency-Key, repeated uploads make one version.
    """
    return await _publish(offer, publisher, describer, response)


@router.put("/adapters/{name}/{version:int}", status_code=201, openapi_extra=PACKAGE)
async def put(
    version: int,
    offer: OfferDep,
    publisher: PublisherDep,
    describer: DescriberDep,
    response: Response,
) -> AdapterInfo:
    """Publish a package as this version. Repeating it changes nothing; other bytes get a 412."""
    return await _publish(replace(offer, version=version), publisher, describer, response)


@router.post("/adapters/{name}/try", openapi_extra=PACKAGE)
async def try_out(
    offer: OfferDep,
    publisher: PublisherDep,
    version: Annotated[int | None, Query(ge=1, lt=10**9)] = None,
) -> TriedOut:
    """List every fault that would reject an upload of this package; nothing is written."""
    faults = await run_sync(publisher.try_out, replace(offer, version=version))
    return TriedOut.of(package_digest(offer.data), faults)


@router.get("/adapters")
async def list_adapters(
    tenant: TenantDep,
    versions: VersionsDep,
    describer: DescriberDep,
    after: Annotated[str | None, Query(max_length=80)] = None,
    limit: Limit = 100,
    deleted: bool = False,
) -> AdapterPage:
    """List a tenant's adapters by name and version; with *deleted*, those that can be restored."""
    last = AdapterRef.parse(tenant, after) if after else None
    entries = await run_sync(
        lambda: versions.of_tenant(tenant, after=last, limit=limit + 1, are_deleted=deleted)
    )
    return AdapterPage(
        adapters=await describer.many(entries[:limit]),
        next=str(entries[limit - 1].ref) if len(entries) > limit else None,
    )


@router.get("/adapters/{name}")
async def get_current(
    name: str, tenant: TenantDep, names: NamesDep, describer: DescriberDep, response: Response
) -> AdapterInfo:
    """Describe the version that *name* means now: its alias's target, or the newest version."""
    found = await run_sync(names.resolve, tenant, name)
    return _tagged(await describer.one(found.ref), response)


@router.get("/adapters/{name}/{version:int}")
async def describe(
    name: str, version: int, tenant: TenantDep, describer: DescriberDep, response: Response
) -> AdapterInfo:
    return _tagged(await describer.one(AdapterRef(tenant, name, version)), response)


@router.get("/adapters/{name}/{version:int}/package", response_class=Response)
async def download(name: str, version: int, tenant: TenantDep, versions: VersionsDep) -> Response:
    """Download the package's bytes as they were published."""
    package = await run_sync(versions.get, AdapterRef(tenant, name, version))
    return Response(package.data, media_type=MEDIA[0], headers={"etag": f'"{package.digest}"'})


@router.delete("/adapters/{name}/{version:int}", status_code=204, response_class=Response)
async def delete(
    name: str,
    version: int,
    tenant: TenantDep,
    publisher: PublisherDep,
    digest: DigestDep,
    purge: bool = False,
) -> None:
    """
    Delete a version; its number stays taken. Answers 412 while an alias points to it.

    It can be restored until its retention ends; with *purge* it is gone at once.
    """
    await publisher.delete(AdapterRef(tenant, name, version), digest=digest, keep=not purge)


@router.post("/adapters/{name}/{version:int}/undelete")
async def undelete(
    name: str, version: int, tenant: TenantDep, versions: VersionsDep, describer: DescriberDep
) -> AdapterInfo:
    """Restore a deleted version as it was."""
    back = await run_sync(versions.undelete, AdapterRef(tenant, name, version))
    return await describer.one(back.ref)


@router.get("/uploads")
async def list_uploads(
    tenant: TenantDep, uploads: UploadsDep, limit: Limit = 100
) -> list[UploadInfo]:
    """List the tenant's recent uploads, the newest first; failed ones have their faults."""
    found = await run_sync(uploads.newest, tenant, limit)
    return [UploadInfo.of(upload) for upload in found]


@router.get("/uploads/{upload_id}")
async def get_upload(
    upload_id: str, tenant: TenantDep, uploads: UploadsDep, describer: DescriberDep
) -> UploadInfo:
    """Describe an upload by its Idempotency-Key: received, checked, ready everywhere, or failed."""
    upload = await run_sync(uploads.get, tenant, upload_id)
    if upload.ref is None or upload.state is not State.CHECKED:
        return UploadInfo.of(upload)
    made = await describer.one(upload.ref)
    return UploadInfo.of(upload, is_ready=made.state is State.READY)
