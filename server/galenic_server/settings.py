"""
What an operator may set, each as an environment variable ``GALENIC_<NAME>``.
"""

import ipaddress
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from galenic_adapters.limits import Limits
from galenic_adapters.zoo import ZOO


class Settings(BaseSettings):
    """
    home: database, secret and keys.   backbone: a hub name or a local folder; the shipped one if
    unset.   metaprompt: a safetensors file; the zoo's for this backbone if unset.   secret: keys
    the hashes of API keys, the tenants' caches and the audit chain; made once in home if unset.
    requests_per_minute, tokens_per_minute, concurrent_requests: of each tenant that an admin set no
    others for.   max_running: requests in the engine at once; shared_running: the same while more
    than one tenant is about.   patience_seconds: how long a client may take to send a request's
    head, its body, and to read on.   stale_seconds: how long keys, adapters and limits seen before
    hold while the database is away.   engine_deaths: with so many of them a request is refused.
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
    num_slots: int = Field(default=4096, ge=1)
    max_rank: int = Field(default=16, ge=1)
    context_tokens: int = Field(default=4096, ge=256)
    enforce_eager: bool = False
    tensor_parallel_size: int = Field(default=1, ge=1)

    max_body_bytes: int = Field(default=4 << 20, ge=1024)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    concurrent_requests: int | None = Field(default=512, ge=1)
    max_running: int = Field(default=256, ge=1)
    shared_running: int = Field(default=64, ge=1)
    patience_seconds: float = Field(default=30, gt=0)
    stale_seconds: float = Field(default=900, ge=0)
    engine_deaths: int = Field(default=2, ge=1)

    max_documents: int = Field(default=256, ge=1)
    drain_seconds: int = Field(default=30, ge=0)
    docs_public: bool | None = None
    metrics_public: bool | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"

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
