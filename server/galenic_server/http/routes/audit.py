"""
The route that reads the audit chain.
"""

from itertools import islice
from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import Query
from pydantic import BaseModel

from galenic_server.audit.chain import Chain
from galenic_server.http.auth import AdminRoute, ReachDep
from galenic_server.http.deps import PartsDep
from galenic_server.http.routes.admin import admin_router
from galenic_server.tenancy.keys import Role

MOST_READ = 10_000


class AuditRoute(AdminRoute):
    """Opens to auditors too."""

    roles = (*AdminRoute.roles, Role.AUDITOR)


router = admin_router(route_class=AuditRoute)


class AuditPage(BaseModel):
    """A page of records with their MACs. next: what to send as *after*; null at the chain's end."""

    rows: list[dict[str, Any]]
    next: int | None


@router.get("/audit")
async def read_audit(
    reach: ReachDep,
    parts: PartsDep,
    tenant: Annotated[str | None, Query(max_length=64)] = None,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> AuditPage:
    """
    Read audit records, the oldest first: an admin's those of all tenants, others' their own.

    A page may have fewer rows than *limit*, or none, before the last one.
    """
    owner = reach if tenant is None else tenant
    return await run_sync(_page, parts.trail.chain, owner, after, limit)


def _page(chain: Chain, tenant: str | None, after: int, limit: int) -> AuditPage:
    page = AuditPage(rows=[], next=None)
    for record, mac in islice(chain.rows(after), MOST_READ):
        if len(page.rows) == limit:
            return page
        page.next = record["number"]
        if tenant in (None, record.get("tenant")):
            page.rows.append(record | {"mac": mac})
    if page.next is None or page.next - after < MOST_READ:
        page.next = None
    return page
