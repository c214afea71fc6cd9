"""
Authenticates callers by a JWT of an OpenID Connect provider, mapped to a tenant and a role.

Only the provider's public keys and asymmetric signature algorithms are accepted. Headers of a token
that say where its key is (``jku``, ``jwk``, ``x5u``) are ignored.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
from jwt import PyJWKClient

from galenic_adapters.errors import Unavailable
from galenic_adapters.refs import NAME, SHARED
from galenic_server.tenancy.keys import Role

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
MAX_TOKEN_BYTES = 8192
FETCH_SECONDS = 5.0
LEEWAY_SECONDS = 10
SUBJECT = re.compile(r"[A-Za-z0-9._@|:-]{1,100}")
HIGHEST_FIRST = (Role.ADMIN, Role.TENANT_ADMIN, Role.CALLER)


@dataclass(frozen=True, slots=True)
class Provider:
    """
    Describes the provider of tokens for this server, and its claims.

    tenant_claim, role_claim: paths of claims; dots lead inwards.   roles: the provider's role names
    to ours.   keys_seconds: how long its keys are cached.   new_keys_seconds: the shortest time
    between two fetches of its keys.
    """

    issuer: str
    audience: str
    jwks_url: str
    tenant_claim: str = "tenant"
    role_claim: str = "role"
    roles: Mapping[str, Role] = field(default_factory=lambda: {role.value: role for role in Role})
    keys_seconds: float = 300.0
    new_keys_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Bearer:
    """Names the holder of a valid token."""

    subject: str
    tenant: str
    role: Role


class Tokens:
    """Verifies the tokens of one provider; its keys are fetched on demand and cached."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._keys = PyJWKClient(
            provider.jwks_url,
            lifespan=provider.keys_seconds,
            cooldown_duration=provider.new_keys_seconds,
            timeout=FETCH_SECONDS,
        )

    def read(self, text: str) -> Bearer | None:
        """
        Return the token's holder, or None if it is not valid. May block to fetch keys.

        Raises `Unavailable` if the provider's keys cannot be fetched.
        """
        if len(text) > MAX_TOKEN_BYTES or not text.isascii():
            return None
        try:
            return self._bearer(self._claims(text))
        except jwt.PyJWKClientConnectionError:
            raise Unavailable("the token issuer's keys cannot be fetched") from None
        except jwt.PyJWTError:
            return None

    def _claims(self, text: str) -> dict[str, Any]:
        if jwt.get_unverified_header(text).get("alg") not in ALGORITHMS:
            raise jwt.InvalidAlgorithmError  # before keys are fetched for it
        claims: dict[str, Any] = jwt.decode(
            text,
            self._keys.get_signing_key_from_jwt(text),
            algorithms=list(ALGORITHMS),
            audience=self._provider.audience,
            issuer=self._provider.issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
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
    plain = text if SUBJECT.fullmatch(text) else hashlib.sha256(text.encode()).hexdigest()[:32]
    return f"jwt:{plain}"
