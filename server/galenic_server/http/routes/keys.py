"""
Routes for API keys: create, list, rotate, expire, revoke.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import Query, Response

from galenic_adapters.errors import BadInput
from galenic_server.http.auth import CallerDep, ReachDep, check_role, check_scope
from galenic_server.http.deps import PartsDep
from galenic_server.http.routes.admin import admin_router
from galenic_server.schemas.admin import (
    ExpireBody,
    KeyBody,
    KeyInfo,
    KeyPage,
    NewKey,
    RotateBody,
)
from galenic_server.tenancy.keys import Role

router = admin_router()


@router.post("/keys", status_code=201)
async def create_key(body: KeyBody, caller: CallerDep, parts: PartsDep) -> NewKey:
    """Create a key, shown only once. A tenant-admin creates keys of its own tenant, below admin."""
    check_scope(caller, body.tenant)
    if body.role is Role.ADMIN:
        check_role(caller, Role.ADMIN)
    if body.expires is not None and body.expires <= datetime.now(UTC):
        raise BadInput("expires", "has passed")
    made = await run_sync(
        lambda: parts.keys.create(body.tenant, body.role, expires=body.expires, label=body.label)
    )
    return NewKey.made(*made)


@router.get("/keys")
async def list_keys(
    reach: ReachDep,
    parts: PartsDep,
    tenant: Annotated[str | None, Query(max_length=64)] = None,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> KeyPage:
    """List keys, the oldest first, revoked ones too; the keys themselves are never shown."""
    owner = reach if tenant is None else tenant
    found = await run_sync(lambda: parts.keys.of(owner, after=after, limit=limit + 1))
    page = [KeyInfo.of(key) for key in found[:limit]]
    return KeyPage(keys=page, next=page[-1].id if len(found) > limit else None)


@router.post("/keys/{key_id}/rotate", status_code=201)
async def rotate_key(key_id: str, body: RotateBody, reach: ReachDep, parts: PartsDep) -> NewKey:
    """Replace a key by a new one, shown only once; the old one stays valid for the grace period."""
    made = await run_sync(
        lambda: parts.keys.rotate(
            key_id,
            grace=timedelta(seconds=body.grace_seconds),
            expires=body.expires,
            tenant=reach,
        )
    )
    return NewKey.made(*made)


@router.post("/keys/{key_id}/expire")
async def expire_key(key_id: str, body: ExpireBody, reach: ReachDep, parts: PartsDep) -> KeyInfo:
    """Let a key expire at a given time, which cannot be later than it expires already."""
    ended = await run_sync(lambda: parts.keys.expire(key_id, body.expires, tenant=reach))
    return KeyInfo.of(ended)


@router.delete("/keys/{key_id}", status_code=204, response_class=Response)
async def revoke_key(key_id: str, reach: ReachDep, parts: PartsDep) -> None:
    """Revoke a key: at once on this server, and within five seconds on every replica."""
    await run_sync(lambda: parts.keys.revoke(key_id, tenant=reach))
