"""
Finds the holder of a request's key. Keys have 256 bits; the database holds only their HMAC.
"""

import base64
import hashlib
import hmac
import re
import secrets as random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from galenic_adapters.errors import BadInput, NotFound
from galenic_adapters.refs import SHARED
from galenic_server.database.cache import Remembered
from galenic_server.database.changes import Change, Changes, Kind
from galenic_server.tenancy.keys import Key, Keys, Role
from galenic_server.tenancy.tenants import Tenants
from galenic_server.tenancy.tokens import Bearer, Tokens, is_token

PREFIX = "gal_"
KEY = re.compile(r"gal_[A-Za-z0-9_-]{43}")
REMEMBERED_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Names the holder of a request's key, and the key's role."""

    tenant: str
    role: Role
    key_id: str


def new_key() -> str:
    return PREFIX + base64.urlsafe_b64encode(random.token_bytes(32)).rstrip(b"=").decode()


class Keyring:
    """
    Creates keys, hashed under the first of *secrets*, and finds their holders under any.

    A key that was found is cached for two seconds: a revocation on another replica takes effect
    soon, and a busy caller does not query the database each time. While the database is away, keys
    seen in the last *stale_seconds* stay valid until they expire, since none can be revoked then.
    life: how long a key lasts if nothing else is said; None for ever.
    """

    def __init__(
        self,
        keys: Keys,
        tenants: Tenants,
        changes: Changes,
        *,
        secrets: Sequence[bytes],
        admin_keys: Sequence[str] = (),
        stale_seconds: float = 900.0,
        life: timedelta | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        self._keys = keys
        self._tenants = tenants
        self._secrets = secrets
        self._life = life
        self._tokens = tokens
        self._admin_hashes = [self._hash(key) for key in admin_keys]
        self._remembered = Remembered[str, Key](
            fresh_seconds=REMEMBERED_SECONDS, stale_seconds=stale_seconds
        )
        self._open = Remembered[str, bool](
            fresh_seconds=REMEMBERED_SECONDS, stale_seconds=stale_seconds
        )
        changes.listen(self._heard)

    def create(
        self, tenant: str, role: Role, *, expires: datetime | None = None, label: str = ""
    ) -> tuple[str, Key]:
        """
        Create a key; return its text, which is stored nowhere, and its record.

        Without *expires* it lasts as long as this keyring's keys do.
        """
        _check_ahead(expires)
        _check_place(tenant, role)
        if expires is None and self._life is not None:
            expires = datetime.now(UTC) + self._life
        text = new_key()
        made = self._keys.add(tenant, role, self._hash(text), expires=expires, label=label)
        return text, made

    def rotate(
        self,
        key_id: str,
        *,
        grace: timedelta,
        expires: datetime | None = None,
        tenant: str | None = None,
    ) -> tuple[str, Key]:
        """Create a key to replace *key_id*, which stays valid for *grace*."""
        _check_ahead(expires)
        text = new_key()
        made = self._keys.rotate(
            key_id, self._hash(text), grace=grace, expires=expires, tenant=tenant
        )
        return text, made

    def expire(self, key_id: str, at: datetime, *, tenant: str | None = None) -> Key:
        return self._keys.expire(key_id, at, tenant=tenant)

    def find(self, text: str) -> Caller | None:
        """Return the holder of the key *text*; None if it is unknown, revoked or no key at all."""
        if self._tokens and is_token(text):
            return self._holder(self._tokens.read(text))
        if len(text) > 256 or not text.isascii():
            return None
        hashed = self._hash(text)
        if any(hmac.compare_digest(hashed, admins) for admins in self._admin_hashes):
            return Caller(SHARED, Role.ADMIN, "environment")
        if not KEY.fullmatch(text):
            return None
        for hashed in self._hashes(text):
            with suppress(NotFound):
                return _caller(self._remembered.get(hashed, partial(self._keys.find, hashed)))
        return None

    def recall(self, text: str) -> Caller | None:
        """Return the holder of a freshly cached key, else None; never queries the database."""
        if not KEY.fullmatch(text):
            return None
        known = map(self._remembered.recall, self._hashes(text))
        key = next(filter(None, known), None)
        return None if key is None else _caller(key)

    def _holder(self, bearer: Bearer | None) -> Caller | None:
        """Return a token's holder, unless its tenant is unknown or suspended."""
        if bearer is None:
            return None
        tenant = bearer.tenant
        is_open = tenant == SHARED or self._open.get(tenant, lambda: self._tenants.is_open(tenant))
        return Caller(tenant, bearer.role, bearer.subject) if is_open else None

    def revoke(self, key_id: str, *, tenant: str | None = None) -> None:
        self._keys.revoke(key_id, tenant=tenant)

    def of(self, tenant: str | None, *, after: str | None = None, limit: int = 100) -> list[Key]:
        return self._keys.page(tenant, after=after, limit=limit)

    def has_admin(self) -> bool:
        """Tell whether there is an admin key, in the database or from the environment."""
        return bool(self._admin_hashes) or self._keys.has_open(SHARED, Role.ADMIN)

    def _heard(self, changes: Sequence[Change] | None) -> None:
        """Clear the caches when keys or tenants change, here or on another replica."""
        if changes is None or any(change.kind in (Kind.KEY, Kind.TENANT) for change in changes):
            self._remembered.forget()
            self._open.forget()

    def _hash(self, text: str) -> str:
        return _hashed(self._secrets[0], text)

    def _hashes(self, text: str) -> Iterator[str]:
        return (_hashed(secret, text) for secret in self._secrets)


def _hashed(secret: bytes, text: str) -> str:
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def _check_ahead(expires: datetime | None) -> None:
    if expires is not None and expires <= datetime.now(UTC):
        raise BadInput("expires", "is in the past")


def _check_place(tenant: str, role: Role) -> None:
    """Raise `BadInput` for a role that opens nothing, or all of it, in that tenant."""
    if role is Role.TENANT_ADMIN and tenant == SHARED:
        raise BadInput("role", f"in the tenant {SHARED}, which all others share, is admin")
    if role is Role.METRICS and tenant != SHARED:
        raise BadInput("role", f"metrics are all tenants'; their keys belong to {SHARED}")


def _caller(key: Key) -> Caller | None:
    """Return the key's holder, unless it has expired since it was cached."""
    is_expired = key.expires is not None and key.expires <= datetime.now(UTC)
    return None if is_expired else Caller(key.tenant, key.role, key.id)
