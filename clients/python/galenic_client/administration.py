"""
The admin API; each method is one call.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import httpx

from galenic_client import admin_calls as calls
from galenic_client.admin_calls import Canary
from galenic_client.calls import Call
from galenic_client.errors import raise_for
from galenic_client.transport import bytes_of, unreachable
from galenic_client.types import (
    Adapter,
    Alias,
    Brought,
    Key,
    Limits,
    NewKey,
    Pushed,
    Replica,
    Role,
    Share,
    Tenant,
    ToPush,
    TriedOut,
    Upload,
)

T = TypeVar("T")


class Administration:
    """Calls the admin API, with an admin's key or, for its own tenant, a tenant-admin's."""

    _http: httpx.Client

    def _send(self, call: Call[T]) -> T:
        raise NotImplementedError

    # Adapters

    def push(
        self,
        name: str,
        package: bytes | Path,
        *,
        version: int | None = None,
        tenant: str | None = None,
        signature: bytes | Path | None = None,
        idempotency_key: str | None = None,
    ) -> Adapter:
        """
        Publish a package as *version*, or as the next one of *name*.

        Calls with the same key make one version; if it is unset, each call has a key of its own.
        """
        bundle = None if signature is None else bytes_of(signature)
        sent = calls.push(name, bytes_of(package), version, tenant, bundle, idempotency_key)
        return self._send(sent)

    def push_many(
        self, packages: Iterable[ToPush], *, tenant: str | None = None
    ) -> Iterator[Pushed]:
        """
        Publish many packages in one stream; yields each outcome as it is written.

        Packages are read as they are sent, and a failed one does not stop the others. After an
        `Unreachable`, call it again: packages written already are recognized by their bytes.
        """
        content = map(calls.line, packages)
        params = {} if tenant is None else {"tenant": tenant}
        try:
            with self._http.stream(
                "POST", calls.ADAPTERS, content=content, params=params, headers=calls.LINES
            ) as sent:
                if not sent.is_success:
                    sent.read()
                raise_for(sent)
                for text in sent.iter_lines():
                    if (pushed := calls.pushed(text)) is None:
                        return
                    yield pushed
        except httpx.TransportError as error:
            raise unreachable(error, self._http.base_url) from error
        raise calls.cut()

    def try_out(
        self,
        name: str,
        package: bytes | Path,
        *,
        version: int | None = None,
        tenant: str | None = None,
        signature: bytes | Path | None = None,
    ) -> TriedOut:
        """Return every fault that would reject a push; nothing is written."""
        bundle = None if signature is None else bytes_of(signature)
        return self._send(calls.try_out(name, bytes_of(package), version, tenant, bundle))

    def list(self, *, tenant: str | None = None, deleted: bool = False) -> Iterator[Adapter]:
        """Yield the tenant's adapters, or its deleted ones that can be restored, page by page."""
        after = None
        while True:
            page = self._send(calls.adapters(tenant, after, deleted))
            yield from page.adapters
            if (after := page.next) is None:
                return

    def describe(
        self, name: str, version: int | None = None, *, tenant: str | None = None
    ) -> Adapter:
        """Describe a version, or the one that the name means now."""
        return self._send(calls.describe(name, version, tenant))

    def delete(
        self, name: str, version: int, *, tenant: str | None = None, purge: bool = False
    ) -> None:
        """Delete a version; it can be restored for a while, unless *purge* is set."""
        self._send(calls.delete(name, version, tenant, purge))

    def undelete(self, name: str, version: int, *, tenant: str | None = None) -> Adapter:
        """Restore a deleted version as it was."""
        return self._send(calls.undelete(name, version, tenant))

    def uploads(self, *, tenant: str | None = None) -> Sequence[Upload]:
        """List the latest uploads; failed ones have their faults."""
        return self._send(calls.uploads(tenant))

    def upload(self, idempotency_key: str, *, tenant: str | None = None) -> Upload:
        """Describe an upload by its idempotency key."""
        return self._send(calls.upload(idempotency_key, tenant))

    # Aliases

    def alias(
        self,
        alias: str,
        adapter: str,
        *,
        canary: Canary | None = None,
        etag: str | None = None,
        tenant: str | None = None,
    ) -> Alias:
        """
        Point *alias* to ``name@version``; *canary*, a version and a weight, takes some requests.

        An existing alias needs its *etag*, or ``*`` for any. A weight is of a hundred requests.
        """
        return self._send(calls.alias(alias, adapter, canary, etag, tenant))

    def get_alias(self, alias: str, *, tenant: str | None = None) -> Alias:
        """Show where an alias points, and whether all replicas answer by that (*converged*)."""
        return self._send(calls.get_alias(alias, tenant))

    def promote(self, alias: str, *, etag: str = "*", tenant: str | None = None) -> Alias:
        """Point the alias to its canary."""
        return self._send(calls.turn(alias, "promote", etag, tenant))

    def roll_back(self, alias: str, *, etag: str = "*", tenant: str | None = None) -> Alias:
        """Remove the canary; without one, return to the previous version."""
        return self._send(calls.turn(alias, "rollback", etag, tenant))

    def aliases(self, *, tenant: str | None = None) -> Sequence[Alias]:
        return self._send(calls.aliases(tenant))

    def drop_alias(self, alias: str, *, etag: str = "*", tenant: str | None = None) -> None:
        self._send(calls.drop_alias(alias, etag, tenant))

    def share(self, name: str, tenants: Sequence[str], *, tenant: str | None = None) -> Share:
        """Let these tenants (``*``: all), and no others, use an adapter or alias of that name."""
        return self._send(calls.share(name, tenants, tenant))

    def shares(self, *, tenant: str | None = None) -> Sequence[Share]:
        return self._send(calls.shares(tenant))

    # Keys

    def create_key(
        self,
        tenant: str,
        role: Role = "caller",
        *,
        expires: datetime | None = None,
        label: str = "",
    ) -> NewKey:
        """Create a key, which is shown only once."""
        return self._send(calls.create_key(tenant, role, expires, label))

    def keys(self, *, tenant: str | None = None) -> Iterator[Key]:
        """Yield the tenant's keys, or everyone's, the oldest first, page by page."""
        after = None
        while True:
            page = self._send(calls.keys(tenant, after))
            yield from page.keys
            if (after := page.next) is None:
                return

    def rotate_key(
        self, key_id: str, *, grace_seconds: int = 86_400, expires: datetime | None = None
    ) -> NewKey:
        """
        Replace a key by a new one, shown only once; the old one stays valid for the grace period.

        Without *expires* the new one lasts as long as the old one was made for.
        """
        return self._send(calls.rotate_key(key_id, grace_seconds, expires))

    def expire_key(self, key_id: str, expires: datetime) -> Key:
        """Set when a key expires."""
        return self._send(calls.expire_key(key_id, expires))

    def revoke_key(self, key_id: str) -> None:
        """Revoke a key at once."""
        self._send(calls.revoke_key(key_id))

    # Tenants

    def tenants(self) -> Iterator[Tenant]:
        """Yield all tenants by name, page by page."""
        after = None
        while True:
            page = self._send(calls.tenants(after))
            yield from page.tenants
            if (after := page.next) is None:
                return

    def tenant(self, name: str) -> Tenant:
        return self._send(calls.tenant(name))

    def set_tenant(
        self,
        name: str,
        *,
        max_adapters: int | None = None,
        max_bytes: int | None = None,
        suspended: bool = False,
    ) -> Tenant:
        """Create a tenant, or replace its settings."""
        return self._send(calls.set_tenant(name, max_adapters, max_bytes, suspended))

    def limits(self, tenant: str) -> Limits:
        """Return the tenant's limits: its own, else the server's."""
        return self._send(calls.limits(tenant))

    def set_limits(
        self,
        tenant: str,
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        concurrent: int | None = None,
        weight: float = 1.0,
    ) -> Limits:
        """Set all limits of the tenant's own; None is no bound."""
        bounds = (requests_per_minute, tokens_per_minute, concurrent)
        return self._send(calls.set_limits(tenant, *bounds, weight))

    def clear_limits(self, tenant: str) -> None:
        """Drop the tenant's own limits; raises `NotFound` if it has none."""
        self._send(calls.clear_limits(tenant))

    def export(self, tenant: str) -> Iterator[bytes]:
        """Export everything of the tenant but its keys, as a stream of JSON lines."""
        try:
            with self._http.stream("GET", calls.export(tenant)) as response:
                if not response.is_success:
                    response.read()
                raise_for(response)
                yield from response.iter_bytes()
        except httpx.TransportError as error:
            raise unreachable(error, self._http.base_url) from error

    def bring(self, tenant: str, archive: bytes | Iterable[bytes]) -> Brought:
        """Import an export; importing twice changes nothing more."""
        return self._send(calls.bring(tenant, archive))

    # The fleet

    def replicas(self) -> Sequence[Replica]:
        """List the servers on this database."""
        return self._send(calls.replicas())

    def forget_replica(self, replica: str) -> None:
        """Stop waiting for a replica that died."""
        self._send(calls.forget_replica(replica))
