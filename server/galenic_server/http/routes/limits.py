"""
Routes for tenants' limits: requests and tokens per minute, concurrent requests, and weight.
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
    """Show the tenant's limits: its own if set, else the server's settings."""
    return LimitsInfo(tenant=tenant, **asdict(await parts.limits.of(tenant)))


@router.put("/{tenant}/limits")
async def set_limits(
    tenant: NamedTenantDep, body: LimitsBody, caller: AdminDep, parts: PartsDep
) -> LimitsInfo:
    """Set all limits; null is no bound. Every replica applies them within five seconds."""
    limits = body.limits()
    await run_sync(parts.limits.rows.put, tenant, limits)
    parts.limits.forget()
    return LimitsInfo(tenant=tenant, **asdict(limits))


@router.delete("/{tenant}/limits", status_code=204, response_class=Response)
async def drop_limits(tenant: NamedTenantDep, caller: AdminDep, parts: PartsDep) -> None:
    """Drop the tenant's own limits; the server's settings apply again."""
    await run_sync(parts.limits.rows.drop, tenant)
    parts.limits.forget()
