"""
Caches answers of the database, and serves stale ones while the database is away.
"""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from galenic_adapters.errors import NotFound, Unavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

PROBE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Seen(Generic[V]):
    value: V
    at: float


class Remembered(Generic[K, V]):
    """
    Caches values by key for *fresh_seconds*, and for *stale_seconds* while the source is away.

    A source that was away is asked again once a second, by one caller, so that others do not wait
    for its time-outs. Nothing counts as fresh unless *is_current*, since invalidations may have
    been missed. A value whose look-up overlaps a `forget` is not cached. Thread-safe.
    """

    def __init__(
        self,
        *,
        fresh_seconds: float,
        stale_seconds: float,
        is_current: Callable[[], bool] = lambda: True,
        most: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fresh_seconds = fresh_seconds
        self._stale_seconds = stale_seconds
        self._is_current = is_current
        self._most = most
        self._clock = clock
        self._seen: dict[K, Seen[V]] = {}
        self._num_forgotten = 0
        self._next_probe: float | None = None  # set while the source is away

    def recall(self, key: K) -> V | None:
        """Return the value if it is fresh, else None; never asks the source."""
        seen = self._seen.get(key)
        is_fresh = seen and self._age(seen) < self._fresh_seconds and self._is_current()
        return seen.value if seen and is_fresh else None

    def get(self, key: K, look_up: Callable[[], V]) -> V:
        """Return the fresh value, else the one that *look_up* returns; raises what that raises."""
        known = self.recall(key)
        if known is not None:
            return known
        if self._next_probe is not None and self._clock() < self._next_probe:
            return self._stale(key, Unavailable("the database is not answering"))
        if self._next_probe is not None:
            self._next_probe = self._clock() + PROBE_SECONDS
        return self._ask(key, look_up)

    def forget(self, where: Callable[[K], bool] = lambda key: True) -> None:
        """Forget the values of all keys for which *where* holds."""
        self._num_forgotten += 1
        for key in list(self._seen):
            if where(key):
                self._seen.pop(key, None)

    def _ask(self, key: K, look_up: Callable[[], V]) -> V:
        num_forgotten = self._num_forgotten
        try:
            value = look_up()
        except Unavailable as error:
            self._next_probe = self._clock() + PROBE_SECONDS
            return self._stale(key, error)
        except NotFound:
            self._next_probe = None
            self._seen.pop(key, None)
            raise
        self._next_probe = None
        if len(self._seen) >= self._most:
            self._seen.clear()
        self._seen[key] = Seen(value, self._clock())
        if num_forgotten != self._num_forgotten:
            self._seen.pop(key, None)
        return value

    def _stale(self, key: K, error: Unavailable) -> V:
        seen = self._seen.get(key)
        if seen is None or self._age(seen) > self._stale_seconds:
            raise error
        return seen.value

    def _age(self, seen: Seen[V]) -> float:
        return self._clock() - seen.at
