"""
What an admin lets each tenant use: requests and tokens a minute, requests at once, and its share.
"""

from dataclasses import asdict
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Response

from galenic_adapters.refs import check_name
from galenic_server.http.deps import AdminRoute, CallerDep, PartsDep, bearer
from galenic_server.http.faults import Forbidden
from galenic_server.schemas.admin import LimitsBody, LimitsInfo
from galenic_server.tenancy.keys import Role

router = APIRouter(
    prefix="/admin/v1/tenants",
    tags=["admin"],
    route_class=AdminRoute,
    dependencies=[Depends(bearer)],
)


def _tenant(tenant: str, caller: CallerDep) -> str:
    """Any for an admin; a tenant's own admin sees its own, and nobody sets his own."""
    if caller.role is Role.ADMIN or (caller.role is Role.TENANT_ADMIN and tenant == caller.tenant):
        return check_name("tenant", tenant)
    raise Forbidden("this takes an admin's key")


def _setting(caller: CallerDep) -> None:
    if caller.role is not Role.ADMIN:
        raise Forbidden("limits are set by an admin")


TenantName = Annotated[str, Depends(_tenant)]


@router.get("/{tenant}/limits")
async def get_limits(tenant: TenantName, parts: PartsDep) -> LimitsInfo:
    """What holds for the tenant: what was set for it, else what the server's settings say."""
    return LimitsInfo(tenant=tenant, **asdict(await parts.limits.of(tenant)))


@router.put("/{tenant}/limits", dependencies=[Depends(_setting)])
async def set_limits(tenant: TenantName, body: LimitsBody, parts: PartsDep) -> LimitsInfo:
    """Set all of them; null is no bound. Every replica keeps to it within five seconds."""
    limits = body.limits()
    await run_sync(parts.limits.rows.put, tenant, limits)
    parts.limits.forget()
    return LimitsInfo(tenant=tenant, **asdict(limits))


@router.delete(
    "/{tenant}/limits",
    status_code=204,
    response_class=Response,
    dependencies=[Depends(_setting)],
)
async def drop_limits(tenant: TenantName, parts: PartsDep) -> None:
    """Back to what the server's settings say."""
    await run_sync(parts.limits.rows.drop, tenant)
    parts.limits.forget()
