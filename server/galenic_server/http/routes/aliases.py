"""
Aliases: pointed to a version, with a canary beside, promoted, rolled back; and whom names are lent.
"""

from anyio.to_thread import run_sync
from fastapi import Response

from galenic_adapters.refs import AdapterRef
from galenic_server.database.replicas import Replicas
from galenic_server.http.auth import TenantDep
from galenic_server.http.routes.admin import admin_router
from galenic_server.http.routes.conditions import MatchDep
from galenic_server.http.stores import AliasesDep, ReplicasDep, SharesDep
from galenic_server.registry.aliases import Alias
from galenic_server.schemas.admin import AliasBody, AliasInfo, ShareBody, ShareInfo

router = admin_router()


async def _info(alias: Alias, replicas: Replicas, response: Response) -> AliasInfo:
    info = AliasInfo.of(alias, await run_sync(replicas.behind, alias.change))
    response.headers["etag"] = info.etag
    return info


@router.get("/aliases")
async def list_aliases(
    tenant: TenantDep, aliases: AliasesDep, replicas: ReplicasDep
) -> list[AliasInfo]:
    found = await run_sync(aliases.of, tenant)
    every = await run_sync(replicas.all)
    return [
        AliasInfo.of(alias, [one.id for one in every if one.seen < alias.change])
        for alias in found.values()
    ]


@router.get("/aliases/{alias}")
async def get_alias(
    alias: str, tenant: TenantDep, aliases: AliasesDep, replicas: ReplicasDep, response: Response
) -> AliasInfo:
    """
    Where it points, and whether every replica answers by that already (*converged*).

    Requests sent after that are answered by no other version.
    """
    return await _info(await run_sync(aliases.get, tenant, alias), replicas, response)


@router.put("/aliases/{alias}")
async def move_alias(
    alias: str,
    body: AliasBody,
    tenant: TenantDep,
    aliases: AliasesDep,
    replicas: ReplicasDep,
    match: MatchDep,
    response: Response,
) -> AliasInfo:
    """
    Point an alias to a version; the task's name as alias makes it that task's default.

    One that exists moves only with If-Match: its ETag, or * for whatever it is (428 without).
    """
    ref = AdapterRef.parse(tenant, body.adapter)
    canary = body.canary.canary(tenant) if body.canary else None
    moved = await run_sync(lambda: aliases.move(tenant, alias, ref, canary=canary, match=match))
    return await _info(moved, replicas, response)


@router.post("/aliases/{alias}/promote")
async def promote(
    alias: str,
    tenant: TenantDep,
    aliases: AliasesDep,
    replicas: ReplicasDep,
    match: MatchDep,
    response: Response,
) -> AliasInfo:
    """The canary takes over; a rollback goes back to what was before. Takes If-Match."""
    moved = await run_sync(lambda: aliases.promote(tenant, alias, match=match))
    return await _info(moved, replicas, response)


@router.post("/aliases/{alias}/rollback")
async def roll_back(
    alias: str,
    tenant: TenantDep,
    aliases: AliasesDep,
    replicas: ReplicasDep,
    match: MatchDep,
    response: Response,
) -> AliasInfo:
    """The canary is off; where there is none, the version before answers. Takes If-Match."""
    moved = await run_sync(lambda: aliases.roll_back(tenant, alias, match=match))
    return await _info(moved, replicas, response)


@router.delete("/aliases/{alias}", status_code=204, response_class=Response)
async def drop_alias(alias: str, tenant: TenantDep, aliases: AliasesDep, match: MatchDep) -> None:
    """Takes If-Match."""
    await run_sync(lambda: aliases.drop(tenant, alias, match=match))


@router.get("/shares")
async def list_shares(tenant: TenantDep, shares: SharesDep) -> list[ShareInfo]:
    """What the tenant lets others ask."""
    return [ShareInfo.of(one) for one in await run_sync(shares.of, tenant)]


@router.put("/shares/{name}")
async def share(name: str, body: ShareBody, tenant: TenantDep, shares: SharesDep) -> ShareInfo:
    """
    Let these tenants, and no others, ask an adapter or an alias of this name, as ``owner/name``.

    They see its answers and its card, never its package.
    """
    made = await run_sync(shares.put, tenant, name, body.tenants)
    return ShareInfo.of(made)
