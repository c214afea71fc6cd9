"""
Callers by token: a JWT of an OpenID Connect provider, mapped to a tenant and a role.

Only the provider's own public keys count, by signature algorithms that need one; what a token says
about where its key is (``jku``, ``jwk``, ``x5u``) is not looked at.
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
    Who makes tokens for this server, and what they say.

    tenant_claim, role_claim: dots lead inwards.   roles: the provider's name of a role to ours.
    keys_seconds: how long its keys are kept.   new_keys_seconds: how soon it is asked for new ones.
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
    """Whom a good token stands for."""

    subject: str
    tenant: str
    role: Role


class Tokens:
    """The tokens of one provider, its keys fetched when they are needed and kept for a while."""

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
        Whose token it is; none where it is no good one. May block for the provider's keys.

        Raises `Unavailable` where these cannot be had.
        """
        if len(text) > MAX_TOKEN_BYTES or not text.isascii():
            return None
        try:
            return self._bearer(self._claims(text))
        except jwt.PyJWKClientConnectionError:
            raise Unavailable("the token issuer's keys cannot be had") from None
        except jwt.PyJWTError:
            return None

    def _claims(self, text: str) -> dict[str, Any]:
        if jwt.get_unverified_header(text).get("alg") not in ALGORITHMS:
            raise jwt.InvalidAlgorithmError  # before anything is fetched for it
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

    def _role(self, said: Any) -> Role:
        """The highest of those it names; an ordinary caller's where it names none of ours."""
        names = [said] if isinstance(said, str) else said if isinstance(said, list) else []
        known = {self._provider.roles.get(name) for name in names if isinstance(name, str)}
        return next((role for role in HIGHEST_FIRST if role in known), Role.CALLER)


def is_token(text: str) -> bool:
    """Whether it has a JWT's three parts."""
    return text.count(".") == 2


def _at(claims: Any, path: str) -> Any:
    for step in path.split("."):
        claims = claims.get(step) if isinstance(claims, dict) else None
    return claims


def _subject(text: str) -> str:
    """As log and audit name it: as it is where it is an ordinary name, else by its hash."""
    plain = text if SUBJECT.fullmatch(text) else hashlib.sha256(text.encode()).hexdigest()[:32]
    return f"jwt:{plain}"
