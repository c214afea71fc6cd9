"""
Tenants: made, bounded, suspended, listed, carried off and brought in; and the fleet's replicas.
"""

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse

from galenic_adapters.errors import BadInput
from galenic_adapters.refs import SHARED
from galenic_server.http.auth import AdminDep, NamedTenantDep
from galenic_server.http.routes.admin import StreamedRoute, admin_router
from galenic_server.http.routes.lines import LINES, LINES_MEDIA, lines_of, received
from galenic_server.http.stores import PublisherDep, ReplicasDep, StoreDep, TenantsDep
from galenic_server.registry import archive
from galenic_server.schemas.admin import (
    BroughtInfo,
    ReplicaInfo,
    TenantBody,
    TenantInfo,
    TenantPage,
)

router = admin_router()
streamed = admin_router(route_class=StreamedRoute)


@router.get("/tenants")
async def list_tenants(
    caller: AdminDep,
    tenants: TenantsDep,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> TenantPage:
    """Tenants by name, with what each keeps."""
    found = await run_sync(lambda: tenants.page(after=after, limit=limit + 1))
    page = [TenantInfo.of(tenant) for tenant in found[:limit]]
    return TenantPage(tenants=page, next=page[-1].tenant if len(found) > limit else None)


@router.get("/tenants/{tenant}")
async def get_tenant(tenant: NamedTenantDep, tenants: TenantsDep) -> TenantInfo:
    return TenantInfo.of(await run_sync(tenants.get, tenant))


@router.put("/tenants/{tenant}")
async def set_tenant(
    tenant: NamedTenantDep, body: TenantBody, caller: AdminDep, tenants: TenantsDep
) -> TenantInfo:
    """Make a tenant, or set all that is its own; while suspended, its keys open nothing."""
    if body.suspended and tenant == SHARED:
        raise BadInput("suspended", f"{SHARED} holds the admins' keys")
    made = await run_sync(
        lambda: tenants.put(tenant, quota=body.quota(), is_suspended=body.suspended)
    )
    return TenantInfo.of(made)


@router.get("/tenants/{tenant}/archive", response_class=StreamingResponse)
async def export(tenant: NamedTenantDep, store: StoreDep) -> StreamingResponse:
    """Everything of the tenant but its keys, as one stream of JSON lines."""
    await run_sync(store.tenants.get, tenant)
    lines = archive.write(store, tenant)
    name = f'attachment; filename="{tenant}.galenic.jsonl"'
    return StreamingResponse(lines, media_type=LINES_MEDIA, headers={"content-disposition": name})


@streamed.put("/tenants/{tenant}/archive", openapi_extra=LINES)
async def bring(tenant: NamedTenantDep, request: Request, publisher: PublisherDep) -> BroughtInfo:
    """
    Bring in what an archive holds; what is there already stays as it is, so twice is as once.

    All of it is received and checked, as uploads are, before the first of it is written.
    """
    with await received(request) as file:
        return BroughtInfo.of(await run_sync(publisher.bring, tenant, lambda: lines_of(file)))


@router.get("/replicas")
async def list_replicas(caller: AdminDep, replicas: ReplicasDep) -> list[ReplicaInfo]:
    """The servers on this database, and how far each has followed its changes."""
    return [ReplicaInfo.of(one) for one in await run_sync(replicas.all)]


@router.delete("/replicas/{replica}", status_code=204, response_class=Response)
async def forget_replica(replica: str, caller: AdminDep, replicas: ReplicasDep) -> None:
    """Wait no longer for a replica that died; one that lives enters again by itself."""
    await run_sync(replicas.leave, replica)
