"""
The server's settings, each an environment variable ``GALENIC_<NAME>``.
"""

import ipaddress
import re
import secrets
import socket
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    DirectoryPath,
    Field,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from galenic_adapters.errors import BadInput
from galenic_adapters.package.signature import Policy, Signatures, read_keys
from galenic_adapters.package.zoo import ZOO
from galenic_server.secret import parts_of
from galenic_server.tenancy.keys import Role
from galenic_server.tenancy.limits import Limits
from galenic_server.tenancy.tenants import Quota
from galenic_server.tenancy.tokens import MAPPED, Provider

PREFIX = "GALENIC_"
GPU = Path("/proc/driver/nvidia")
MOST_DOCUMENTS = 4096
SHARED_ON_GPU, SHARED_ON_CPU = 64, 4
"""Requests in the engine while several tenants are active; on a CPU each slows all others."""


DEFAULT_PORT = 8000


def _no_link(value: Any) -> Any:
    """Replace a Service's address, which Kubernetes puts there, by the default port."""
    is_link = isinstance(value, str) and value.startswith(("tcp://", "udp://"))
    return DEFAULT_PORT if is_link else value


def _origin(value: str) -> str:
    """Return *value* if it is an origin, as browsers send it: ``https://host``, or ``*``."""
    if value != "*" and not re.fullmatch(r"https?://[^/\s*@]+", value):
        raise ValueError(f"{value[:80]!r} is no origin: https://host, with a port if there is one")
    return value


def _listed(value: Any) -> Any:
    """Split a text at commas; a single path becomes a list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, Path) else value


class Settings(BaseSettings):
    """Holds one server's settings; `galenic settings` prints all of them with their meaning."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, env_ignore_empty=True)

    # Where it is

    home: Path = Field(
        default_factory=lambda: Path.home() / ".galenic",
        description="The folder of the database and the secret.",
    )
    host: str = Field(default="127.0.0.1", description="The address to bind.")
    port: Annotated[int, BeforeValidator(_no_link)] = Field(
        default=DEFAULT_PORT, ge=0, le=65535, description="The port to bind; 0 takes any free one."
    )
    cors_origins: Annotated[
        tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_listed)
    ] = Field(
        default=(),
        description="Origins whose pages may call the server from a browser, as https://host, with"
        " commas between them; * is any. Unset, none.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="Where keys and adapters are kept: sqlite:///FILE or postgresql://…, for a"
        " fleet of servers. Unset, a SQLite file in the home folder.",
    )
    secret: SecretStr | None = Field(
        default=None,
        description="Keys the hashes of API keys, the tenants' caches and the audit chain. All"
        " servers on one database need the same. Unset, it is made once and kept in the home"
        " folder. Several, with commas between them: the first is used, and what older ones made"
        " stays good.",
    )
    key_days: float = Field(
        default=365,
        ge=0,
        description="How long a key lasts that is created without an end of its own; 0 for ever.",
    )
    admin_key: SecretStr | None = Field(
        default=None,
        description="An admin's API key that opens without the database; several with commas"
        " between them.",
    )

    # The model

    backbone: str | None = Field(
        default=None, description="A hub name or a local folder. Unset, the default backbone."
    )
    engine: Literal["vllm", "transformers"] = Field(
        default="vllm", description="What runs the backbone. OpenAI's routes need vllm."
    )
    metaprompt: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_listed)] = Field(
        default=(),
        description="The safetensors files of metaprompts, with commas between them, whose adapters"
        " are served beside those of the zoo's.",
    )
    zoo: DirectoryPath = Field(
        default=ZOO, description="The folder of adapters that all tenants share."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="bfloat16", description="The number type of weights and adapters in the engine."
    )
    batch_invariant: bool = Field(
        default=False,
        description="Give a text the same answer whatever runs beside it. On a GPU by vLLM's"
        " batch-invariant kernels, on a CPU by float32, which are slower.",
    )
    num_slots: int | None = Field(
        default=None,
        ge=1,
        description="Adapters resident at once. Unset, as many as have their scales in a"
        " thirty-second of the memory, at most 1 GiB.",
    )
    places: str = Field(
        default="of",
        pattern="^q?k?v?o?f?$",
        description="Where adapters may scale activations, a letter each, in this order: q, k and v"
        " queries, keys and values, o the attention's output, f the feed-forward's inner"
        " activations. Each one slows every request a little.",
    )
    prompt_bytes: int | None = Field(
        default=None,
        ge=1,
        description="What the keys and values of resident adapters' prompts may take. Unset, a"
        " sixteenth of the memory, at most 16 GiB.",
    )
    max_rank: int = Field(default=16, ge=1, description="The highest rank of an adapter.")
    context_tokens: int = Field(
        default=4096, ge=256, description="The most tokens of prompt, text and answer together."
    )
    enforce_eager: bool = Field(
        default=False,
        description="Run vLLM without compiling: it starts sooner and answers more slowly.",
    )
    tensor_parallel_size: int = Field(default=1, ge=1, description="GPUs that share the backbone.")
    tool_parser: str = Field(
        default="hermes", description="How the backbone writes tool calls, in vLLM's name for it."
    )

    engine_silent_seconds: float = Field(
        default=15,
        ge=3,
        description="An engine whose processes answer nothing for so long takes no requests, and is"
        " restarted after three times as long.",
    )

    # What requests may take

    request_seconds: float = Field(
        default=600,
        gt=0,
        description="How long a request may take until its answer is whole; then it is a 503, and"
        " the engine stops working for it.",
    )

    max_body_bytes: int = Field(
        default=4 << 20, ge=1024, description="The largest request, in bytes."
    )
    max_documents: int = Field(
        default=256, ge=1, le=MOST_DOCUMENTS, description="The most documents in one request."
    )
    trusted_proxies: str = Field(
        default="",
        description="Addresses or networks of proxies, with commas between them, whose"
        " X-Forwarded-For says where a request came from. Unset, nobody's.",
    )
    max_connections: int = Field(
        default=2048, ge=1, description="Connections open at once; further ones are cut off."
    )
    max_connections_of_peer: int = Field(
        default=1024,
        ge=1,
        description="The same of one address. A proxy in front of the server is one address.",
    )
    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="Requests a minute of each tenant that has no limits of its own. Unset, no"
        " bound.",
    )
    tokens_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="Tokens a minute, of texts and answers, of each tenant that has no limits of"
        " its own. Unset, no bound.",
    )
    concurrent_requests: int | None = Field(
        default=512,
        ge=1,
        description="Requests open at once of each tenant that has no limits of its own.",
    )
    max_running: int = Field(
        default=256, ge=1, description="Requests in the engine at once while one tenant is alone."
    )
    shared_running: int = Field(
        default_factory=lambda: SHARED_ON_GPU if GPU.exists() else SHARED_ON_CPU,
        ge=1,
        description=f"The same while several tenants ask: {SHARED_ON_CPU} on a CPU,"
        f" {SHARED_ON_GPU} on a GPU.",
    )
    patience_seconds: float = Field(
        default=30,
        gt=0,
        description="How long a client may take to send a request's head or body, and how long it"
        " may read nothing of an answer.",
    )
    stale_seconds: float = Field(
        default=900,
        ge=0,
        description="How long keys, adapters and limits seen before hold while the database is"
        " away.",
    )
    engine_deaths: int = Field(
        default=2,
        ge=1,
        description="A request that was running at so many engine crashes is refused.",
    )

    # What tenants may keep

    max_archive_bytes: int = Field(
        default=2 << 30, ge=1024, description="The largest archive or bulk upload, in bytes."
    )
    max_adapters: int | None = Field(
        default=10_000,
        ge=0,
        description="Versions that a tenant without a quota of its own may keep.",
    )
    max_adapter_bytes: int | None = Field(
        default=4 << 30,
        ge=0,
        description="Bytes that a tenant without a quota of its own may keep.",
    )
    retention_days: float = Field(
        default=30, ge=0, description="How long deleted versions can be brought back."
    )
    signature_policy: Policy = Field(
        default=Policy.NONE,
        description="Whether packages are signed: none; optional (a signature that comes has to"
        " be good); required; bound (it also has to be recent, and name tenant and adapter, as"
        " `galenic sign --for` writes it).",
    )
    signature_days: float = Field(
        default=30,
        gt=0,
        description="How long after signing a package may be uploaded, where its signature says"
        " when that was.",
    )
    signing_keys: Path | None = Field(
        default=None,
        description="The folder of the public keys (PEM) that signatures are checked by.",
    )

    # Who may ask, beside keys (deploy/TENANTS.md)

    jwt_issuer: str | None = Field(
        default=None,
        description="The OpenID Connect provider whose tokens open too, as in their iss.",
    )
    jwt_audience: str = Field(default="galenic", description="The aud that those tokens must have.")
    jwt_jwks_url: str | None = Field(
        default=None, description="Where the provider's public keys are."
    )
    jwt_tenant_claim: str = Field(
        default="tenant", description="The claim that holds the tenant; dots lead inwards."
    )
    jwt_role_claim: str = Field(
        default="role", description="The claim that holds the role; dots lead inwards."
    )
    jwt_roles: dict[str, Role] = Field(
        default_factory=lambda: {role.value: role for role in MAPPED},
        description="The provider's words for our roles, as JSON. Unset, tenant-admin and caller:"
        " no word of the provider's makes an admin of all tenants by itself.",
    )
    jwt_max_seconds: float = Field(
        default=86_400,
        gt=0,
        description="How long a token may still last; those of longer life are refused, since none"
        " can be revoked.",
    )

    # How it is run

    drain_seconds: int = Field(
        default=30, ge=0, description="How long running requests may go on after SIGTERM."
    )
    docs_public: bool | None = Field(
        default=None,
        description="Whether /docs and /openapi.json are served. Unset, where only this machine"
        " reaches the server.",
    )
    metrics_public: bool | None = Field(
        default=None,
        description="Whether /metrics is open without an admin's key. Unset, where only this"
        " machine reaches the server.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe messages that are logged."
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.jwt_issuer is None) != (self.jwt_jwks_url is None):
            raise ValueError("GALENIC_JWT_ISSUER and GALENIC_JWT_JWKS_URL go together")
        if self.jwt_jwks_url is not None and not _is_private(self.jwt_jwks_url):
            raise ValueError("GALENIC_JWT_JWKS_URL begins with https://, or names this machine")
        if self.signature_policy is not Policy.NONE and self.signing_keys is None:
            raise ValueError("GALENIC_SIGNATURE_POLICY needs GALENIC_SIGNING_KEYS, a folder")
        return self

    @property
    def engine_dtype(self) -> str:
        """Return the number type of the engine; on a CPU only float32 is batch-invariant."""
        return "float32" if self.batch_invariant and not GPU.exists() else self.dtype

    @property
    def admin_keys(self) -> Sequence[str]:
        """Return the admin keys from the environment. Raises `BadInput` for a weak one."""
        key = self.admin_key
        return parts_of("GALENIC_ADMIN_KEY", key.get_secret_value()) if key else ()

    @property
    def provider(self) -> Provider | None:
        """Return the provider whose tokens are accepted, if any."""
        if self.jwt_issuer is None or self.jwt_jwks_url is None:
            return None
        return Provider(
            self.jwt_issuer,
            self.jwt_audience,
            self.jwt_jwks_url,
            tenant_claim=self.jwt_tenant_claim,
            role_claim=self.jwt_role_claim,
            roles=self.jwt_roles,
            most_seconds=self.jwt_max_seconds,
        )

    @property
    def quota(self) -> Quota:
        """Return the quota of tenants without one of their own."""
        return Quota(self.max_adapters, self.max_adapter_bytes)

    @property
    def signatures(self) -> Signatures:
        """Read the trusted keys, and return the signature policy with them. Raises `BadInput`."""
        keys = read_keys(self.signing_keys) if self.signing_keys else {}
        if self.signature_policy is not Policy.NONE and not keys:
            raise BadInput("signing_keys", f"{self.signing_keys} holds no public key (*.pem)")
        return Signatures(self.signature_policy, keys, timedelta(days=self.signature_days))

    @property
    def place(self) -> str:
        """Return this replica's address; a new replica replaces the one registered there."""
        port = self.port or secrets.token_hex(4)
        return f"{socket.gethostname()[:100]}:{port}"

    @property
    def database(self) -> str:
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.home.absolute() / 'galenic.db'}"

    @property
    def limits(self) -> Limits:
        """Return the limits of tenants without limits of their own."""
        return Limits(self.requests_per_minute, self.tokens_per_minute, self.concurrent_requests)

    @property
    def shows_docs(self) -> bool:
        return self.is_loopback if self.docs_public is None else self.docs_public

    @property
    def shows_metrics(self) -> bool:
        """Tell whether metrics are open without a key; an admin key always opens them."""
        return self.is_loopback if self.metrics_public is None else self.metrics_public

    @property
    def is_loopback(self) -> bool:
        """Tell whether only this machine can reach the bound address."""
        return _is_loopback(self.host)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_private(url: str) -> bool:
    """Tell whether nobody on the way can change what *url* says."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (
        parts.scheme == "http" and _is_loopback(parts.hostname or "")
    )
