"""
What an admin lets each tenant use: requests and tokens a minute, requests at once, and its share.
"""

from dataclasses import asdict

from anyio.to_thread import run_sync
from fastapi import Response

from galenic_server.http.auth import AdminDep, NamedTenantDep
from galenic_server.http.deps import PartsDep
from galenic_server.http.routes.admin import admin_router
from galenic_server.schemas.admin import LimitsBody, LimitsInfo

router = admin_router("/admin/v1/tenants")


@router.get("/{tenant}/limits")
async def get_limits(tenant: NamedTenantDep, parts: PartsDep) -> LimitsInfo:
    """What holds for the tenant: what was set for it, else what the server's settings say."""
    return LimitsInfo(tenant=tenant, **asdict(await parts.limits.of(tenant)))


@router.put("/{tenant}/limits")
async def set_limits(
    tenant: NamedTenantDep, body: LimitsBody, caller: AdminDep, parts: PartsDep
) -> LimitsInfo:
    """Set all of them; null is no bound. Every replica keeps to it within five seconds."""
    limits = body.limits()
    await run_sync(parts.limits.rows.put, tenant, limits)
    parts.limits.forget()
    return LimitsInfo(tenant=tenant, **asdict(limits))


@router.delete("/{tenant}/limits", status_code=204, response_class=Response)
async def drop_limits(tenant: NamedTenantDep, caller: AdminDep, parts: PartsDep) -> None:
    """Back to what the server's settings say."""
    await run_sync(parts.limits.rows.drop, tenant)
    parts.limits.forget()
