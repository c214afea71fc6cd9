"""
Defines every call of the admin API as data: the request, and how its response is read.
"""

import base64
import json
import secrets
from collections.abc import AsyncIterable, Iterable, Sequence
from datetime import datetime

from galenic_client.calls import Call, as_, as_list, nothing, safe
from galenic_client.errors import Unreachable
from galenic_client.transport import bytes_of
from galenic_client.types import (
    Adapter,
    AdapterPage,
    Alias,
    Brought,
    Key,
    KeyPage,
    Limits,
    NewKey,
    Pushed,
    Replica,
    Role,
    Share,
    Tenant,
    TenantPage,
    ToPush,
    TriedOut,
    Upload,
)

Canary = tuple[str, int]
ADMIN = "/admin/v1"


def push(
    name: str,
    package: bytes,
    version: int | None,
    tenant: str | None,
    signature: bytes | None,
    key: str | None,
) -> Call[Adapter]:
    """Push a package under an idempotency key, so that it can be retried safely."""
    path = f"{ADMIN}/adapters/{safe(name)}" + (f"/{version}" if version is not None else "")
    headers = {"idempotency-key": key or secrets.token_hex(16), **_signed(signature)}
    params = {"tenant": tenant}
    return Call("PUT", path, as_(Adapter), content=package, params=params, headers=headers)


ADAPTERS = f"{ADMIN}/adapters"
"""The path to which many packages are posted as lines; the response is lines too."""
LINES = {"content-type": "application/x-ndjson"}


def line(package: ToPush) -> bytes:
    fields: dict[str, object] = {
        "name": package.name,
        "package": base64.b64encode(bytes_of(package.package)).decode(),
    }
    if package.version is not None:
        fields["version"] = package.version
    if package.signature is not None:
        fields["signature"] = bytes_of(package.signature).decode()
    return json.dumps(fields).encode() + b"\n"


def pushed(text: str) -> Pushed | None:
    """Parse a line of the response; returns None for the last one."""
    fields = json.loads(text)
    return None if fields.get("kind") == "end" else Pushed.model_validate(fields)


def cut() -> Unreachable:
    return Unreachable("the answer was cut; the same may be sent again", nothing_sent=False)


def try_out(
    name: str, package: bytes, version: int | None, tenant: str | None, signature: bytes | None
) -> Call[TriedOut]:
    return Call(
        "POST",
        f"{ADMIN}/adapters/{safe(name)}/try",
        as_(TriedOut),
        content=package,
        params={"tenant": tenant, "version": version},
        headers=_signed(signature),
    )


def _signed(signature: bytes | None) -> dict[str, str | None]:
    text = None if signature is None else base64.b64encode(signature).decode()
    return {"x-galenic-signature": text}


def adapters(tenant: str | None, after: str | None, is_deleted: bool) -> Call[AdapterPage]:
    deleted = "true" if is_deleted else None
    params = {"tenant": tenant, "after": after, "limit": 1000, "deleted": deleted}
    return Call("GET", f"{ADMIN}/adapters", as_(AdapterPage), params=params)


def describe(name: str, version: int | None, tenant: str | None) -> Call[Adapter]:
    path = f"{ADMIN}/adapters/{safe(name)}" + (f"/{version}" if version is not None else "")
    return Call("GET", path, as_(Adapter), params={"tenant": tenant})


def delete(name: str, version: int, tenant: str | None, is_purged: bool) -> Call[None]:
    path = f"{ADMIN}/adapters/{safe(name)}/{version}"
    params = {"tenant": tenant, "purge": "true" if is_purged else None}
    return Call("DELETE", path, nothing, params=params, is_repeatable=False)


def undelete(name: str, version: int, tenant: str | None) -> Call[Adapter]:
    path = f"{ADMIN}/adapters/{safe(name)}/{version}/undelete"
    return Call("POST", path, as_(Adapter), params={"tenant": tenant}, is_repeatable=False)


def uploads(tenant: str | None) -> Call[list[Upload]]:
    return Call("GET", f"{ADMIN}/uploads", as_list(Upload), params={"tenant": tenant})


def upload(key: str, tenant: str | None) -> Call[Upload]:
    return Call("GET", f"{ADMIN}/uploads/{safe(key)}", as_(Upload), params={"tenant": tenant})


def alias(
    name: str, adapter: str, canary: Canary | None, etag: str | None, tenant: str | None
) -> Call[Alias]:
    body: dict[str, object] = {"adapter": adapter}
    if canary is not None:
        body["canary"] = {"adapter": canary[0], "weight": canary[1]}
    path, params = f"{ADMIN}/aliases/{safe(name)}", {"tenant": tenant}
    is_repeatable = etag == "*"
    headers = {"if-match": etag}
    return Call(
        "PUT",
        path,
        as_(Alias),
        json=body,
        params=params,
        headers=headers,
        is_repeatable=is_repeatable,
    )


def get_alias(name: str, tenant: str | None) -> Call[Alias]:
    return Call("GET", f"{ADMIN}/aliases/{safe(name)}", as_(Alias), params={"tenant": tenant})


def turn(name: str, way: str, etag: str, tenant: str | None) -> Call[Alias]:
    path, params = f"{ADMIN}/aliases/{safe(name)}/{way}", {"tenant": tenant}
    headers = {"if-match": etag}
    return Call("POST", path, as_(Alias), params=params, headers=headers, is_repeatable=False)


def aliases(tenant: str | None) -> Call[list[Alias]]:
    return Call("GET", f"{ADMIN}/aliases", as_list(Alias), params={"tenant": tenant})


def drop_alias(name: str, etag: str, tenant: str | None) -> Call[None]:
    path, params = f"{ADMIN}/aliases/{safe(name)}", {"tenant": tenant}
    headers = {"if-match": etag}
    return Call("DELETE", path, nothing, params=params, headers=headers, is_repeatable=False)


def share(name: str, tenants: Sequence[str], tenant: str | None) -> Call[Share]:
    path, body = f"{ADMIN}/shares/{safe(name)}", {"tenants": list(tenants)}
    return Call("PUT", path, as_(Share), json=body, params={"tenant": tenant})


def shares(tenant: str | None) -> Call[list[Share]]:
    return Call("GET", f"{ADMIN}/shares", as_list(Share), params={"tenant": tenant})


def create_key(tenant: str, role: Role, expires: datetime | None, label: str) -> Call[NewKey]:
    body = {"tenant": tenant, "role": role, "expires": _moment(expires), "label": label}
    return Call("POST", f"{ADMIN}/keys", as_(NewKey), json=body, is_repeatable=False)


def keys(tenant: str | None, after: str | None) -> Call[KeyPage]:
    params = {"tenant": tenant, "after": after, "limit": 1000}
    return Call("GET", f"{ADMIN}/keys", as_(KeyPage), params=params)


def rotate_key(key_id: str, grace_seconds: int, expires: datetime | None) -> Call[NewKey]:
    body = {"grace_seconds": grace_seconds, "expires": _moment(expires)}
    path = f"{ADMIN}/keys/{safe(key_id)}/rotate"
    return Call("POST", path, as_(NewKey), json=body, is_repeatable=False)


def expire_key(key_id: str, expires: datetime) -> Call[Key]:
    path = f"{ADMIN}/keys/{safe(key_id)}/expire"
    return Call("POST", path, as_(Key), json={"expires": _moment(expires)})


def revoke_key(key_id: str) -> Call[None]:
    return Call("DELETE", f"{ADMIN}/keys/{safe(key_id)}", nothing)


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone().isoformat()


def tenants(after: str | None) -> Call[TenantPage]:
    params = {"after": after, "limit": 1000}
    return Call("GET", f"{ADMIN}/tenants", as_(TenantPage), params=params)


def tenant(name: str) -> Call[Tenant]:
    return Call("GET", f"{ADMIN}/tenants/{safe(name)}", as_(Tenant))


def set_tenant(
    name: str, max_adapters: int | None, max_bytes: int | None, is_suspended: bool
) -> Call[Tenant]:
    body = {"max_adapters": max_adapters, "max_bytes": max_bytes, "suspended": is_suspended}
    return Call("PUT", f"{ADMIN}/tenants/{safe(name)}", as_(Tenant), json=body)


def limits(name: str) -> Call[Limits]:
    return Call("GET", f"{ADMIN}/tenants/{safe(name)}/limits", as_(Limits))


def set_limits(
    name: str,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    concurrent: int | None,
    weight: float,
) -> Call[Limits]:
    body = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrent": concurrent,
        "weight": weight,
    }
    return Call("PUT", f"{ADMIN}/tenants/{safe(name)}/limits", as_(Limits), json=body)


def clear_limits(name: str) -> Call[None]:
    path = f"{ADMIN}/tenants/{safe(name)}/limits"
    return Call("DELETE", path, nothing, is_repeatable=False)


def export(name: str) -> str:
    """Return the path of an export; its response is streamed."""
    return f"{ADMIN}/tenants/{safe(name)}/archive"


def bring(name: str, archive: bytes | Iterable[bytes] | AsyncIterable[bytes]) -> Call[Brought]:
    # An import can be repeated, but a stream can be sent only once.
    is_repeatable = isinstance(archive, bytes)
    path = export(name)
    return Call("PUT", path, as_(Brought), content=archive, is_repeatable=is_repeatable)


def replicas() -> Call[list[Replica]]:
    return Call("GET", f"{ADMIN}/replicas", as_list(Replica))


def forget_replica(replica: str) -> Call[None]:
    return Call("DELETE", f"{ADMIN}/replicas/{safe(replica)}", nothing, is_repeatable=False)
