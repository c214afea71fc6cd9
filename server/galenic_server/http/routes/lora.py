"""
The routes by which tools load LoRA adapters into vLLM; here they move an alias.

``lora_path`` is a reference to a registered adapter, never a path or an address. Packages are
uploaded by `PUT /admin/v1/adapters/{name}`.
"""

from typing import Any

from anyio.to_thread import run_sync
from fastapi.responses import PlainTextResponse, Response

from galenic_adapters.errors import Conflict, NotFound, Unsupported
from galenic_adapters.package.manifest import DIGEST
from galenic_adapters.refs import NAME, VERSION, AdapterRef
from galenic_server.http.auth import TenantDep
from galenic_server.http.routes.admin import admin_router
from galenic_server.http.stores import AliasesDep, PublisherDep, VersionsDep
from galenic_server.registry.aliases import absent, anyhow
from galenic_server.registry.rows import Entry
from galenic_server.registry.versions import Versions
from galenic_server.schemas.admin import LoadBody, UnloadBody

router = admin_router("/v1")


TEXT: dict[str, Any] = {
    "response_model": None,
    "responses": {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
}


class AlreadyLoaded(Unsupported):
    """Rejects a second load with vLLM's message and status, which its tools look for."""


@router.post("/load_lora_adapter", **TEXT)
async def load(
    body: LoadBody,
    tenant: TenantDep,
    aliases: AliasesDep,
    versions: VersionsDep,
    publisher: PublisherDep,
) -> Response:
    """Point the alias *lora_name* to the version that *lora_path* names, and seat it."""
    match = anyhow if body.load_inplace else absent
    entry = await run_sync(_meant, versions, tenant, body.lora_path)
    try:
        await run_sync(lambda: aliases.move(tenant, body.lora_name, entry.ref, match=match))
    except Conflict:
        problem = f"The lora adapter {body.lora_name!r} has already been loaded."
        raise AlreadyLoaded("lora_name", problem) from None
    await publisher.engine.seat([entry.digest])
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post("/unload_lora_adapter", **TEXT)
async def unload(body: UnloadBody, tenant: TenantDep, aliases: AliasesDep) -> Response:
    """Drop the alias; the version stays in the registry."""
    try:
        await run_sync(aliases.drop, tenant, body.lora_name)
    except NotFound:
        raise NotFound(f"The lora adapter {body.lora_name!r} cannot be found.") from None
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def _meant(versions: Versions, tenant: str, text: str) -> Entry:
    """Find a version of the tenant's own, by digest or by name."""
    name, at, version = text.partition("@")
    if DIGEST.fullmatch(text):
        return versions.of_digest(tenant, text)
    if at and NAME.fullmatch(name) and VERSION.fullmatch(version):
        return versions.describe(AdapterRef(tenant, name, int(version)))
    if NAME.fullmatch(text):
        if found := versions.of_name(tenant, text):
            return found[-1]
        raise NotFound(f"no adapter {text!r}")
    raise Unsupported(
        "lora_path",
        "is a reference in the registry (name, name@version or sha256:…), never a path or an"
        " address; upload packages with PUT /admin/v1/adapters/{name}",
    )
