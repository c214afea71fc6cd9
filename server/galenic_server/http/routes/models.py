"""
Lists the models that a caller may name: the backbone, its own adapters and shared ones.
"""

from collections.abc import Iterator
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends

from galenic_adapters.refs import SHARED
from galenic_server.http.auth import CallerDep, KeyedRoute, bearer
from galenic_server.http.deps import ServiceDep
from galenic_server.http.stores import StoreDep, VersionsDep
from galenic_server.registry.rows import Entry
from galenic_server.registry.store import Store
from galenic_server.registry.versions import Versions

router = APIRouter(
    prefix="/v1", tags=["openai"], route_class=KeyedRoute, dependencies=[Depends(bearer)]
)

PAGE = 1000
LISTED_LABELS = 32


@router.get("/models")
async def list_models(caller: CallerDep, service: ServiceDep, store: StoreDep) -> dict[str, Any]:
    """
    List every version and alias that this key may use, in OpenAI's format.

    Of an adapter with very many labels the first ones are listed.
    """
    tenant = caller.tenant
    models = await service.listing.run(tenant, lambda: list(_models(store, tenant)))
    return {"object": "list", "data": [_backbone(service.backbone.name), *models]}


@router.get("/models/{model:path}")
async def get_model(
    model: str, caller: CallerDep, service: ServiceDep, versions: VersionsDep
) -> dict[str, Any]:
    """Describe what *model* means now; an alias is described under its own name."""
    if model == service.backbone.name:
        return _backbone(model)
    found = await service.resolve(caller.tenant, model)
    return _model(model, await run_sync(versions.describe, found.ref))


def _models(store: Store, tenant: str) -> Iterator[dict[str, Any]]:
    for owner in dict.fromkeys((tenant, SHARED)):
        entries = {entry.ref: entry for entry in _all(store.versions, owner)}
        for alias in store.aliases.of(owner).values():
            if alias.ref in entries:
                yield _listed(alias.name, entries[alias.ref])
        for ref, entry in entries.items():
            yield _listed(str(ref), entry)
    for owner, name in store.shares.lent_to(tenant):
        yield from _lent(store, owner, name)


def _lent(store: Store, owner: str, name: str) -> Iterator[dict[str, Any]]:
    """Yield what another tenant lends under *name*, with the names that a borrower uses."""
    if (alias := store.aliases.of(owner).get(name)) is not None:
        yield _listed(f"{owner}/{name}", store.versions.describe(alias.ref))
    for entry in store.versions.of_name(owner, name):
        yield _listed(f"{owner}/{entry.ref}", entry)


def _all(versions: Versions, owner: str) -> Iterator[Entry]:
    page = versions.of_tenant(owner, limit=PAGE)
    while page:
        yield from page
        page = versions.of_tenant(owner, after=page[-1].ref, limit=PAGE)


def _listed(id_: str, entry: Entry) -> dict[str, Any]:
    model = _model(id_, entry)
    model["adapter"]["labels"] = model["adapter"]["labels"][:LISTED_LABELS]
    return model


def _model(id_: str, entry: Entry) -> dict[str, Any]:
    adapter = {
        "name": entry.ref.name,
        "version": entry.ref.version,
        "digest": entry.digest,
        "task": entry.manifest.task,
        "labels": entry.manifest.labels,
    }
    return {
        "id": id_,
        "object": "model",
        "created": int(entry.created.timestamp()),
        "owned_by": entry.ref.tenant,
        "adapter": adapter,
    }


def _backbone(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": SHARED, "adapter": None}
