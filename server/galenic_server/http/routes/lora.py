"""
The routes by which tools load adapters into vLLM: here they point an alias to what is registered.

``lora_path`` is a reference, never a path on the server and never an address; bytes come by
`PUT /admin/v1/adapters/{name}`.
"""

from typing import Any

from anyio.to_thread import run_sync
from fastapi.responses import PlainTextResponse, Response

from galenic_adapters.errors import Conflict, NotFound, Unsupported
from galenic_adapters.package.manifest import DIGEST
from galenic_adapters.refs import NAME, VERSION, AdapterRef
from galenic_server.http.deps import RegistryDep, TenantDep
from galenic_server.http.routes.admin import admin_router
from galenic_server.registry.aliases import Match, absent, anyhow
from galenic_server.registry.store import SqlStore
from galenic_server.schemas.admin import LoadBody, UnloadBody

router = admin_router("/v1")


TEXT: dict[str, Any] = {
    "response_model": None,
    "responses": {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
}


class AlreadyLoaded(Unsupported):
    """In vLLM's words and with its status, which its tools look for."""


@router.post("/load_lora_adapter", **TEXT)
async def load(body: LoadBody, tenant: TenantDep, registry: RegistryDep) -> Response:
    """Point the alias *lora_name* to the version that *lora_path* names, and seat it."""
    match = anyhow if body.load_inplace else absent
    digest = await run_sync(_load, registry.store, tenant, body, match)
    await registry.engine.seat([digest])
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post("/unload_lora_adapter", **TEXT)
async def unload(body: UnloadBody, tenant: TenantDep, registry: RegistryDep) -> Response:
    """Drop the alias; the version stays in the registry."""
    try:
        await run_sync(registry.store.drop_alias, tenant, body.lora_name)
    except NotFound:
        raise NotFound(f"The lora adapter {body.lora_name!r} cannot be found.") from None
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def _load(store: SqlStore, tenant: str, body: LoadBody, match: Match) -> str:
    ref, digest = _meant(store, tenant, body.lora_path)
    try:
        store.move_alias(tenant, body.lora_name, ref, match=match)
    except Conflict:
        said = f"The lora adapter {body.lora_name!r} has already been loaded."
        raise AlreadyLoaded("lora_name", said) from None
    return digest


def _meant(store: SqlStore, tenant: str, text: str) -> tuple[AdapterRef, str]:
    """A version of the tenant's own, by digest or by name."""
    name, at, version = text.partition("@")
    if DIGEST.fullmatch(text):
        entry = store.of_digest(tenant, text)
    elif at and NAME.fullmatch(name) and VERSION.fullmatch(version):
        entry = store.describe(AdapterRef(tenant, name, int(version)))
    elif NAME.fullmatch(text):
        found = store.versions(tenant, text)
        if not found:
            raise NotFound(f"no adapter {text!r}")
        entry = found[-1]
    else:
        raise Unsupported(
            "lora_path",
            "is a reference in the registry (name, name@version or sha256:…), never a path or an"
            " address; upload packages with PUT /admin/v1/adapters/{name}",
        )
    return entry.ref, entry.digest
