"""
Routes for tenants (create, limit, suspend, list, export, import) and for the fleet's replicas.
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
    """List tenants by name, with their usage."""
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
    """Create a tenant, or replace its settings; while it is suspended, its keys are refused."""
    if body.suspended and tenant == SHARED:
        raise BadInput("suspended", f"{SHARED} holds the admins' keys")
    made = await run_sync(
        lambda: tenants.put(tenant, quota=body.quota(), is_suspended=body.suspended)
    )
    return TenantInfo.of(made)


@router.get("/tenants/{tenant}/archive", response_class=StreamingResponse)
async def export(tenant: NamedTenantDep, store: StoreDep) -> StreamingResponse:
    """Export everything of the tenant but its keys as a stream of JSON lines."""
    await run_sync(store.tenants.get, tenant)
    lines = archive.write(store, tenant)
    name = f'attachment; filename="{tenant}.galenic.jsonl"'
    return StreamingResponse(lines, media_type=LINES_MEDIA, headers={"content-disposition": name})


@streamed.put("/tenants/{tenant}/archive", openapi_extra=LINES)
async def bring(tenant: NamedTenantDep, request: Request, publisher: PublisherDep) -> BroughtInfo:
    """
    Import an archive. Existing versions are kept, so importing twice changes nothing more.

    All of it is received and checked, as uploads are, before anything is written.
    """
    with await received(request) as file:
        return BroughtInfo.of(await run_sync(publisher.bring, tenant, lambda: lines_of(file)))


@router.get("/replicas")
async def list_replicas(caller: AdminDep, replicas: ReplicasDep) -> list[ReplicaInfo]:
    """List the servers on this database, and how far each has followed its changes."""
    return [ReplicaInfo.of(replica) for replica in await run_sync(replicas.all)]


@router.delete("/replicas/{replica}", status_code=204, response_class=Response)
async def forget_replica(replica: str, caller: AdminDep, replicas: ReplicasDep) -> None:
    """Stop waiting for a replica that died; one that is alive registers again by itself."""
    await run_sync(replicas.leave, replica)
