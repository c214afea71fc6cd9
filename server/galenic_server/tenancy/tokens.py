"""
Authenticates callers by a JWT of an OpenID Connect provider, mapped to a tenant and a role.

Only the provider's public keys and asymmetric signature algorithms are accepted. Headers of a token
that say where its key is (``jku``, ``jwk``, ``x5u``) are ignored.
"""

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt

from galenic_adapters.refs import NAME, SHARED
from galenic_server.tenancy.issuer_keys import IssuerKeys
from galenic_server.tenancy.keys import Role

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
MAX_TOKEN_BYTES = 8192
LEEWAY_SECONDS = 10
SUBJECT = re.compile(r"[A-Za-z0-9._@|:-]{1,100}")
HIGHEST_FIRST = tuple(Role)
MAPPED = (Role.TENANT_ADMIN, Role.CALLER)
"""The roles that an issuer may give under our names; others take a mapping by the operator."""


@dataclass(frozen=True, slots=True)
class Provider:
    """
    Describes the provider of tokens for this server, and its claims.

    tenant_claim, role_claim: paths of claims; dots lead inwards.   roles: the provider's role names
    to ours.   most_seconds: how long a token may still last.   keys_seconds: how often its keys are
    fetched.   new_keys_seconds: the shortest time between two fetches.
    """

    issuer: str
    audience: str
    jwks_url: str
    tenant_claim: str = "tenant"
    role_claim: str = "role"
    roles: Mapping[str, Role] = field(default_factory=lambda: {role.value: role for role in MAPPED})
    most_seconds: float = 86_400.0
    keys_seconds: float = 300.0
    new_keys_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Bearer:
    """Names the holder of a valid token."""

    subject: str
    tenant: str
    role: Role


class Tokens:
    """Verifies the tokens of one provider, by keys that are fetched in the background."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._keys = IssuerKeys(
            provider.jwks_url,
            every_seconds=provider.keys_seconds,
            pause_seconds=provider.new_keys_seconds,
        )
        self.close = self._keys.close

    def read(self, text: str) -> Bearer | None:
        """
        Return the token's holder, or None if it is not valid. Never waits for the provider.

        Raises `Unavailable` while there are no keys of the provider's.
        """
        if len(text) > MAX_TOKEN_BYTES or not text.isascii():
            return None
        try:
            return self._bearer(self._claims(text))
        except jwt.PyJWTError:
            return None

    def _claims(self, text: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(text)
        if header.get("alg") not in ALGORITHMS:
            raise jwt.InvalidAlgorithmError  # before a key is looked for
        if (key := self._keys.find(str(header.get("kid")))) is None:
            raise jwt.InvalidKeyError
        claims: dict[str, Any] = jwt.decode(
            text,
            key,
            algorithms=list(ALGORITHMS),
            audience=self._provider.audience,
            issuer=self._provider.issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
        if float(claims["exp"]) > time.time() + self._provider.most_seconds:
            raise jwt.InvalidTokenError  # it cannot be revoked, so it has to end soon
        return claims

    def _bearer(self, claims: dict[str, Any]) -> Bearer | None:
        role = self._role(_at(claims, self._provider.role_claim))
        usual = SHARED if role is Role.ADMIN else None
        tenant = _at(claims, self._provider.tenant_claim) or usual
        if not isinstance(tenant, str) or not NAME.fullmatch(tenant):
            return None
        return Bearer(_subject(str(claims["sub"])), tenant, role)

    def _role(self, claim: Any) -> Role:
        """Return the highest role in *claim*, or CALLER if it names none of ours."""
        names = [claim] if isinstance(claim, str) else claim if isinstance(claim, list) else []
        known = {self._provider.roles.get(name) for name in names if isinstance(name, str)}
        return next((role for role in HIGHEST_FIRST if role in known), Role.CALLER)


def is_token(text: str) -> bool:
    """Tell whether *text* has a JWT's three parts."""
    return text.count(".") == 2


def _at(claims: Any, path: str) -> Any:
    for step in path.split("."):
        claims = claims.get(step) if isinstance(claims, dict) else None
    return claims


def _subject(text: str) -> str:
    """Return the subject's name for log and audit: itself if it is a plain name, else a hash."""
    if SUBJECT.fullmatch(text):
        return f"jwt:{text}"
    hashed = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()  # JSON may hold any
    return f"jwt:{hashed[:32]}"
