"""
Routes for aliases (point to a version, with a canary, promote, roll back) and for shares.
"""

from collections.abc import Iterable
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import Depends, Response

from galenic_adapters.refs import AdapterRef
from galenic_server.http.auth import TenantDep
from galenic_server.http.routes.admin import admin_router
from galenic_server.http.routes.conditions import MatchDep
from galenic_server.http.stores import AliasesDep, ReplicasDep, SharesDep
from galenic_server.registry.aliases import Alias
from galenic_server.schemas.admin import AliasBody, AliasInfo, ShareBody, ShareInfo

router = admin_router()


class Describer:
    """Describes aliases, with the replicas that may still answer by an alias's old target."""

    def __init__(self, replicas: ReplicasDep, response: Response) -> None:
        self._replicas = replicas
        self._response = response

    async def one(self, alias: Alias) -> AliasInfo:
        """Describe *alias*, and set the response's ETag."""
        info = AliasInfo.of(alias, await run_sync(self._replicas.behind, alias.change))
        self._response.headers["etag"] = info.etag
        return info

    async def many(self, aliases: Iterable[Alias]) -> list[AliasInfo]:
        replicas = await run_sync(self._replicas.all)
        return [
            AliasInfo.of(alias, [r.id for r in replicas if r.seen < alias.change])
            for alias in aliases
        ]


DescriberDep = Annotated[Describer, Depends()]


@router.get("/aliases")
async def list_aliases(
    tenant: TenantDep, aliases: AliasesDep, describer: DescriberDep
) -> list[AliasInfo]:
    return await describer.many((await run_sync(aliases.of, tenant)).values())


@router.get("/aliases/{alias}")
async def get_alias(
    alias: str, tenant: TenantDep, aliases: AliasesDep, describer: DescriberDep
) -> AliasInfo:
    """
    Show where an alias points, and whether every replica answers by that (*converged*).

    Requests sent after convergence are answered by no other version.
    """
    return await describer.one(await run_sync(aliases.get, tenant, alias))


@router.put("/aliases/{alias}")
async def move_alias(
    alias: str,
    body: AliasBody,
    tenant: TenantDep,
    aliases: AliasesDep,
    match: MatchDep,
    describer: DescriberDep,
) -> AliasInfo:
    """
    Point an alias to a version. An alias with a task's name sets that task's default.

    An existing alias needs If-Match: its ETag, or * for any (428 without).
    """
    ref = AdapterRef.parse(tenant, body.adapter)
    canary = body.canary.canary(tenant) if body.canary else None
    moved = await run_sync(lambda: aliases.move(tenant, alias, ref, canary=canary, match=match))
    return await describer.one(moved)


@router.post("/aliases/{alias}/promote")
async def promote(
    alias: str, tenant: TenantDep, aliases: AliasesDep, match: MatchDep, describer: DescriberDep
) -> AliasInfo:
    """Point the alias to its canary; a rollback returns to the old target. Takes If-Match."""
    moved = await run_sync(lambda: aliases.promote(tenant, alias, match=match))
    return await describer.one(moved)


@router.post("/aliases/{alias}/rollback")
async def roll_back(
    alias: str, tenant: TenantDep, aliases: AliasesDep, match: MatchDep, describer: DescriberDep
) -> AliasInfo:
    """Remove the canary; if there is none, return to the previous version. Takes If-Match."""
    moved = await run_sync(lambda: aliases.roll_back(tenant, alias, match=match))
    return await describer.one(moved)


@router.delete("/aliases/{alias}", status_code=204, response_class=Response)
async def drop_alias(alias: str, tenant: TenantDep, aliases: AliasesDep, match: MatchDep) -> None:
    """Drop the alias; its version stays. Takes If-Match."""
    await run_sync(lambda: aliases.drop(tenant, alias, match=match))


@router.get("/shares")
async def list_shares(tenant: TenantDep, shares: SharesDep) -> list[ShareInfo]:
    """List the names that the tenant shares with others."""
    return [ShareInfo.of(shared) for shared in await run_sync(shares.of, tenant)]


@router.put("/shares/{name}")
async def share(name: str, body: ShareBody, tenant: TenantDep, shares: SharesDep) -> ShareInfo:
    """
    Let these tenants, and no others, use an adapter or an alias of this name, as ``owner/name``.

    They see its answers and its card, never its package.
    """
    made = await run_sync(shares.put, tenant, name, body.tenants)
    return ShareInfo.of(made)
