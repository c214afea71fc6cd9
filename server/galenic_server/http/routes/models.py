"""
Which models a caller may name: the backbone, its own adapters and the shared ones.
"""

from collections.abc import Iterator
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends

from galenic_adapters.refs import SHARED
from galenic_server.http.deps import CallerDep, KeyedRoute, ServiceDep, bearer
from galenic_server.registry.store import Entry, SqlStore

router = APIRouter(
    prefix="/v1", tags=["openai"], route_class=KeyedRoute, dependencies=[Depends(bearer)]
)

PAGE = 1000


@router.get("/models")
async def list_models(caller: CallerDep, service: ServiceDep) -> dict[str, Any]:
    """Every version and every alias that this key may use, in OpenAI's form."""
    models = await run_sync(lambda: list(_models(service.store, caller.tenant)))
    return {"object": "list", "data": [_backbone(service.backbone.name), *models]}


@router.get("/models/{model:path}")
async def get_model(model: str, caller: CallerDep, service: ServiceDep) -> dict[str, Any]:
    """What *model* means just now; an alias answers under its own name."""
    if model == service.backbone.name:
        return _backbone(model)
    found = await service.resolve(caller.tenant, model)
    return _model(model, await run_sync(service.store.describe, found.ref))


def _models(store: SqlStore, tenant: str) -> Iterator[dict[str, Any]]:
    for owner in dict.fromkeys((tenant, SHARED)):
        entries = {entry.ref: entry for entry in _all(store, owner)}
        for alias in store.aliases(owner).values():
            if alias.ref in entries:
                yield _model(alias.name, entries[alias.ref])
        for ref, entry in entries.items():
            yield _model(str(ref), entry)
    for owner, name in store.lent_to(tenant):
        yield from _lent(store, owner, name)


def _lent(store: SqlStore, owner: str, name: str) -> Iterator[dict[str, Any]]:
    """What another tenant lets this one ask, under the names by which it does."""
    if (alias := store.aliases(owner).get(name)) is not None:
        yield _model(f"{owner}/{name}", store.describe(alias.ref))
    for entry in store.versions(owner, name):
        yield _model(f"{owner}/{entry.ref}", entry)


def _all(store: SqlStore, owner: str) -> Iterator[Entry]:
    page = store.owned_by(owner, limit=PAGE)
    while page:
        yield from page
        page = store.owned_by(owner, after=page[-1].ref, limit=PAGE)


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
