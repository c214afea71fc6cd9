"""
What an operator may set, each as an environment variable ``GALENIC_<NAME>``.
"""

import ipaddress
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from galenic_adapters.errors import BadInput
from galenic_adapters.factor import Metaprompt
from galenic_adapters.package.signature import Policy, Signatures, read_keys
from galenic_adapters.package.zoo import ZOO
from galenic_server.engine.capacity import usual_components, usual_prompts, usual_scales
from galenic_server.tenancy.keys import Role
from galenic_server.tenancy.limits import Limits
from galenic_server.tenancy.tenants import Quota
from galenic_server.tenancy.tokens import Provider

GPU = Path("/proc/driver/nvidia")
SHARED_ON_GPU, SHARED_ON_CPU = 64, 4
"""On a CPU each request in a batch slows all others, on a GPU hardly."""


class Settings(BaseSettings):
    """
    home: database, secret and keys.   backbone: a hub name or a local folder; the shipped one if
    unset.   metaprompt: a safetensors file; the zoo's for this backbone if unset.   secret: keys
    the hashes of API keys, the tenants' caches and the audit chain; made once in home if unset.
    num_slots, num_components: adapters resident at once, and their ranks, all together; what memory
    allows if unset.   places: the letters of those where adapters may scale activations, of
    qkvof in that order.
    prewarm: how many prompts, of those asked lately, are run through after each
    start of the engine, and of those that are uploaded.
    requests_per_minute, tokens_per_minute, concurrent_requests: of each tenant that an admin set no
    others for.   max_running: requests in the engine at once; shared_running: the same while more
    than one tenant is about.   patience_seconds: how long a client may take to send a request's
    head, its body, and to read on.   stale_seconds: how long keys, adapters and limits seen before
    hold while the database is away.   engine_deaths: with so many of them a request is refused.
    max_adapters, max_adapter_bytes: what a tenant may keep that has no quota of its own.
    retention_days: how long what was deleted can come back.   signature_policy, signing_keys:
    whether packages have to be signed, and the folder of the public keys that may.   jwt_…: whose
    tokens are taken beside keys, and where they say tenant and role (deploy/TENANTS.md).
    """

    model_config = SettingsConfigDict(env_prefix="GALENIC_", frozen=True, env_ignore_empty=True)

    home: Path = Field(default_factory=lambda: Path.home() / ".galenic")
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    database_url: str | None = None
    secret: SecretStr | None = None
    admin_key: SecretStr | None = None

    backbone: str | None = None
    engine: Literal["vllm", "transformers"] = "vllm"
    metaprompt: Path | None = None
    zoo: Path = ZOO
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    num_slots: int | None = Field(default=None, ge=1)
    num_components: int | None = Field(default=None, ge=1)
    places: str = Field(default="", pattern="^q?k?v?o?f?$")
    prewarm: int = Field(default=0, ge=0)
    max_rank: int = Field(default=16, ge=1)
    context_tokens: int = Field(default=4096, ge=256)
    enforce_eager: bool = False
    tensor_parallel_size: int = Field(default=1, ge=1)
    tool_parser: str = "hermes"

    max_body_bytes: int = Field(default=4 << 20, ge=1024)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    concurrent_requests: int | None = Field(default=512, ge=1)
    max_running: int = Field(default=256, ge=1)
    shared_running: int = Field(
        default_factory=lambda: SHARED_ON_GPU if GPU.exists() else SHARED_ON_CPU, ge=1
    )
    patience_seconds: float = Field(default=30, gt=0)
    stale_seconds: float = Field(default=900, ge=0)
    engine_deaths: int = Field(default=2, ge=1)

    max_archive_bytes: int = Field(default=2 << 30, ge=1024)
    max_adapters: int | None = Field(default=10_000, ge=0)
    max_adapter_bytes: int | None = Field(default=4 << 30, ge=0)
    retention_days: float = Field(default=30, ge=0)
    signature_policy: Policy = Policy.NONE
    signing_keys: Path | None = None

    jwt_issuer: str | None = None
    jwt_audience: str = "galenic"
    jwt_jwks_url: str | None = None
    jwt_tenant_claim: str = "tenant"
    jwt_role_claim: str = "role"
    jwt_roles: dict[str, Role] = Field(default_factory=lambda: {r.value: r for r in Role})

    max_documents: int = Field(default=256, ge=1)
    drain_seconds: int = Field(default=30, ge=0)
    docs_public: bool | None = None
    metrics_public: bool | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.jwt_issuer is None) != (self.jwt_jwks_url is None):
            raise ValueError("GALENIC_JWT_ISSUER and GALENIC_JWT_JWKS_URL go together")
        if self.signature_policy is not Policy.NONE and self.signing_keys is None:
            raise ValueError("GALENIC_SIGNATURE_POLICY needs GALENIC_SIGNING_KEYS, a folder")
        return self

    def capacity(
        self, metaprompt: Metaprompt, scales: Mapping[str, tuple[int, int]]
    ) -> tuple[int, int | None]:
        """
        Slots and components of the engine; what is not set follows from what is, or memory.

        scales: layers and width of every place of the backbone.
        """
        if self.num_slots is not None:
            return self.num_slots, self.num_components
        most = usual_scales([scales[place] for place in self.places], self.dtype)
        if self.engine == "transformers":
            return min(usual_prompts(metaprompt, self.dtype), most), None
        components = self.num_components or usual_components(metaprompt, self.dtype)
        return min(components, most), components

    @property
    def provider(self) -> Provider | None:
        """Whose tokens are taken, if anyone's."""
        if self.jwt_issuer is None or self.jwt_jwks_url is None:
            return None
        return Provider(
            self.jwt_issuer,
            self.jwt_audience,
            self.jwt_jwks_url,
            tenant_claim=self.jwt_tenant_claim,
            role_claim=self.jwt_role_claim,
            roles=self.jwt_roles,
        )

    @property
    def quota(self) -> Quota:
        """What a tenant may keep that no other quota was set for."""
        return Quota(self.max_adapters, self.max_adapter_bytes)

    @property
    def signatures(self) -> Signatures:
        """What is asked of a package's signature; reads the trusted keys. Raises `BadInput`."""
        keys = read_keys(self.signing_keys) if self.signing_keys else {}
        if self.signature_policy is not Policy.NONE and not keys:
            raise BadInput("signing_keys", f"{self.signing_keys} holds no public key (*.pem)")
        return Signatures(self.signature_policy, keys)

    @property
    def place(self) -> str:
        """Where this replica is; the one that was there before is gone."""
        port = self.port or secrets.token_hex(4)
        return f"{socket.gethostname()[:100]}:{port}"

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.home.absolute() / 'galenic.db'}"

    @property
    def limits(self) -> Limits:
        """What a tenant may use that no others were set for."""
        return Limits(self.requests_per_minute, self.tokens_per_minute, self.concurrent_requests)

    @property
    def shows_docs(self) -> bool:
        return self.is_loopback if self.docs_public is None else self.docs_public

    @property
    def shows_metrics(self) -> bool:
        """Without a key, that is; an admin key always sees them."""
        return self.is_loopback if self.metrics_public is None else self.metrics_public

    @property
    def is_loopback(self) -> bool:
        """Whether nothing outside this machine reaches the address bound."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
