"""
Limits tenants by token buckets: requests and tokens per minute, and concurrent requests.

Everything is counted in this process, without a database. Each replica of a fleet counts what
reaches it, so the fleet's limit is the sum of its replicas'. Tokens are charged as they are
generated and may run into debt, for which the next request is refused.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from galenic_adapters.errors import LimitReached
from galenic_server.tenancy.limits import Limits

Clock = Callable[[], float]
UNBOUNDED = Limits()


class Bucket:
    """Fills evenly up to one minute's worth; `spend` draws from it."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._at = clock()

    @property
    def level(self) -> float:
        """Return what is left now; below zero if more was spent than there was."""
        now = self._clock()
        filled = self._level + (now - self._at) * self.per_minute / 60
        self._level, self._at = min(float(self.per_minute), filled), now
        return self._level

    def spend(self, count: float) -> None:
        self._level = self.level - count

    def seconds_until(self, level: float) -> float:
        return max(0.0, level - self.level) * 60 / self.per_minute


@dataclass(slots=True)
class Meter:
    """Holds one tenant's buckets under *limits*, and its number of open requests."""

    limits: Limits = UNBOUNDED
    requests: Bucket | None = None
    tokens: Bucket | None = None
    num_open: int = 0


class Limiter:
    """Holds every tenant to its limits; for use in one event loop."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._meters: dict[str, Meter] = {}

    @contextmanager
    def open(self, tenant: str, limits: Limits) -> Iterator[dict[str, str]]:
        """
        Count a request of *tenant* as open until the block ends; yields rate-limit headers.

        Raises `LimitReached`.
        """
        meter = self._meter(tenant, limits)
        self._check(meter)
        if meter.requests:
            meter.requests.spend(1)
        meter.num_open += 1
        try:
            yield self.headers(tenant)
        finally:
            meter.num_open -= 1

    def spend(self, tenant: str, num_tokens: int) -> None:
        meter = self._meters.get(tenant)
        if meter and meter.tokens:
            meter.tokens.spend(num_tokens)

    def weight(self, tenant: str) -> float:
        meter = self._meters.get(tenant)
        return meter.limits.weight if meter else 1.0

    def headers(self, tenant: str) -> dict[str, str]:
        """Return rate-limit headers under OpenAI's names; none for unbounded limits."""
        meter = self._meters.get(tenant)
        buckets = {"requests": meter.requests, "tokens": meter.tokens} if meter else {}
        return {
            f"x-ratelimit-{what}-{kind}": text
            for kind, bucket in buckets.items()
            if bucket
            for what, text in _state_of(bucket).items()
        }

    def _meter(self, tenant: str, limits: Limits) -> Meter:
        meter = self._meters.setdefault(tenant, Meter())
        if meter.limits != limits:
            meter.requests = self._bucket(meter.requests, limits.requests_per_minute)
            meter.tokens = self._bucket(meter.tokens, limits.tokens_per_minute)
            meter.limits = limits
        return meter

    def _bucket(self, old: Bucket | None, per_minute: int | None) -> Bucket | None:
        if per_minute is None:
            return None
        return old if old and old.per_minute == per_minute else Bucket(per_minute, self._clock)

    def _check(self, meter: Meter) -> None:
        most = meter.limits.concurrent
        if most is not None and meter.num_open >= most:
            raise LimitReached(f"{most} requests of this tenant are open, as many as may be", 1)
        for what, bucket, needed in (
            ("requests", meter.requests, 1.0),
            ("tokens", meter.tokens, 0.0),
        ):
            if bucket and bucket.level < needed:
                problem = f"this tenant's {bucket.per_minute:,} {what} a minute are used"
                raise LimitReached(problem, bucket.seconds_until(max(needed, 1.0)))


def _state_of(bucket: Bucket) -> dict[str, str]:
    return {
        "limit": str(bucket.per_minute),
        "remaining": str(max(0, math.floor(bucket.level))),
        "reset": _duration(bucket.seconds_until(bucket.per_minute)),
    }


def _duration(seconds: float) -> str:
    """Format a duration as OpenAI does: 6m0s, 1s, 20ms."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
