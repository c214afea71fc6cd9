"""
Looks up each tenant's limits in a cache, and counts what is left of them.
"""

from anyio.to_thread import run_sync

from galenic_adapters.errors import NotFound
from galenic_server.database.cache import Remembered
from galenic_server.tenancy.limiter import Limiter
from galenic_server.tenancy.limits import LimitRows, Limits

LIMITS_SECONDS = 5.0


class TenantLimits:
    """Caches each tenant's limits; a change elsewhere takes effect within five seconds."""

    def __init__(
        self, rows: LimitRows, limiter: Limiter, *, default: Limits, stale_seconds: float
    ) -> None:
        self.rows = rows
        self.limiter = limiter
        self._default = default
        self._remembered = Remembered[str, Limits](
            fresh_seconds=LIMITS_SECONDS, stale_seconds=stale_seconds
        )

    async def of(self, tenant: str) -> Limits:
        if (known := self._remembered.recall(tenant)) is not None:
            return known
        return await run_sync(self._remembered.get, tenant, lambda: self._look_up(tenant))

    def forget(self) -> None:
        self._remembered.forget()

    def _look_up(self, tenant: str) -> Limits:
        try:
            return self.rows.get(tenant)
        except NotFound:
            return self._default
