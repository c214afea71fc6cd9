"""
What an admin does, and a tenant's own admin for that tenant: adapters, aliases and keys.
"""

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Query, Request, Response

from galenic_adapters.aliases import anyhow, pointing_to
from galenic_adapters.keys import Role
from galenic_adapters.refs import AdapterRef
from galenic_server.deps import AdminRoute, ManagerDep, PartsDep, ServiceDep, TenantDep, bearer
from galenic_server.faults import Forbidden, WrongMedia
from galenic_server.schemas import (
    AdapterInfo,
    AdapterPage,
    AliasBody,
    AliasInfo,
    KeyBody,
    KeyInfo,
    NewKey,
)

router = APIRouter(
    prefix="/admin/v1", tags=["admin"], route_class=AdminRoute, dependencies=[Depends(bearer)]
)

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
    return await request.body()


PackageDep = Annotated[bytes, Depends(_package_bytes)]
Limit = Annotated[int, Query(ge=1, le=1000)]


@router.put("/adapters/{name}", status_code=201, openapi_extra=PACKAGE)
async def publish(
    name: str, data: PackageDep, tenant: TenantDep, service: ServiceDep
) -> AdapterInfo:
    """Publish a package as the next version of *name*; it answers at once."""
    return AdapterInfo.of(await service.publish(tenant, name, None, data))


@router.put("/adapters/{name}/{version}", status_code=201, openapi_extra=PACKAGE)
async def put(
    name: str, version: int, data: PackageDep, tenant: TenantDep, service: ServiceDep
) -> AdapterInfo:
    """Publish a package as this version; the same bytes again change nothing, others are a 412."""
    return AdapterInfo.of(await service.publish(tenant, name, version, data))


@router.get("/adapters")
async def list_adapters(
    tenant: TenantDep,
    service: ServiceDep,
    after: Annotated[str | None, Query(max_length=80)] = None,
    limit: Limit = 100,
) -> AdapterPage:
    """A tenant's adapters by name and version."""
    last = AdapterRef.parse(tenant, after) if after else None
    entries = await run_sync(lambda: service.store.owned_by(tenant, after=last, limit=limit + 1))
    page = [AdapterInfo.of(entry) for entry in entries[:limit]]
    return AdapterPage(
        adapters=page, next=str(entries[limit - 1].ref) if len(entries) > limit else None
    )


@router.get("/adapters/{name}")
async def get_current(name: str, tenant: TenantDep, service: ServiceDep) -> AdapterInfo:
    """What *name* means to the tenant just now: its alias, or its newest version."""
    found = await service.resolve(tenant, name)
    return AdapterInfo.of(await run_sync(service.store.describe, found.ref))


@router.get("/adapters/{name}/{version}")
async def describe(name: str, version: int, tenant: TenantDep, service: ServiceDep) -> AdapterInfo:
    return AdapterInfo.of(await run_sync(service.store.describe, AdapterRef(tenant, name, version)))


@router.get("/adapters/{name}/{version}/package", response_class=Response)
async def download(name: str, version: int, tenant: TenantDep, service: ServiceDep) -> Response:
    """The package's bytes, as they were published."""
    package = await run_sync(service.store.get, AdapterRef(tenant, name, version))
    return Response(package.data, media_type=MEDIA[0], headers={"etag": f'"{package.digest}"'})


@router.delete("/adapters/{name}/{version}", status_code=204, response_class=Response)
async def delete(name: str, version: int, tenant: TenantDep, service: ServiceDep) -> None:
    """Drop a version; its number stays taken. A 412 while an alias points to it."""
    await service.delete(AdapterRef(tenant, name, version))


@router.get("/aliases")
async def list_aliases(tenant: TenantDep, service: ServiceDep) -> list[AliasInfo]:
    found = await run_sync(service.store.aliases, tenant)
    return [
        AliasInfo(tenant=tenant, alias=name, adapter=str(one.ref)) for name, one in found.items()
    ]


@router.get("/aliases/{alias}")
async def get_alias(alias: str, tenant: TenantDep, service: ServiceDep) -> AliasInfo:
    found = await run_sync(service.store.alias, tenant, alias)
    return AliasInfo(tenant=tenant, alias=alias, adapter=str(found.ref))


@router.put("/aliases/{alias}")
async def move_alias(
    alias: str, body: AliasBody, tenant: TenantDep, service: ServiceDep
) -> AliasInfo:
    """Point an alias to a version; the task's name as alias makes it that task's default."""
    ref = AdapterRef.parse(tenant, body.adapter)
    expect = AdapterRef.parse(tenant, body.expect) if body.expect else None
    match = anyhow if expect is None else pointing_to(expect)
    await run_sync(lambda: service.store.move_alias(tenant, alias, ref, match=match))
    return AliasInfo(tenant=tenant, alias=alias, adapter=str(ref))


@router.delete("/aliases/{alias}", status_code=204, response_class=Response)
async def drop_alias(alias: str, tenant: TenantDep, service: ServiceDep) -> None:
    await run_sync(service.store.drop_alias, tenant, alias)


@router.post("/keys", status_code=201)
async def create_key(body: KeyBody, caller: ManagerDep, parts: PartsDep) -> NewKey:
    """A new key, shown this once. A tenant-admin makes keys of its own tenant, below admin."""
    allowed = body.tenant == caller.tenant and body.role is not Role.ADMIN
    if caller.role is not Role.ADMIN and not allowed:
        raise Forbidden("a tenant-admin makes keys of its own tenant, below admin")
    return NewKey.made(*await run_sync(parts.keys.create, body.tenant, body.role))


@router.get("/keys")
async def list_keys(
    caller: ManagerDep,
    parts: PartsDep,
    tenant: Annotated[str | None, Query(max_length=64)] = None,
) -> list[KeyInfo]:
    """Keys by what they open, revoked ones too; never the key itself."""
    if caller.role is not Role.ADMIN:
        tenant = caller.tenant
    return [KeyInfo.of(key) for key in await run_sync(parts.keys.of, tenant)]


@router.delete("/keys/{key_id}", status_code=204, response_class=Response)
async def revoke_key(key_id: str, caller: ManagerDep, parts: PartsDep) -> None:
    tenant = None if caller.role is Role.ADMIN else caller.tenant
    await run_sync(lambda: parts.keys.revoke(key_id, tenant=tenant))
