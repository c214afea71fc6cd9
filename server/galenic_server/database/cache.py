"""
What the database said lately: asked for seldom, and said again while the database is away.
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
    Answers by key, each as old as *fresh_seconds*; up to *stale_seconds* while the source is away.

    A source that was away is asked again once a second, by one caller: the others are not kept
    waiting for its time-outs. While not *is_current* nothing is fresh: then it is not known whether
    something has to be forgotten. What was on its way when it had to be is not remembered either.
    Safe from any thread.
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
        """What is known and fresh, without asking anyone."""
        seen = self._seen.get(key)
        is_fresh = seen and self._age(seen) < self._fresh_seconds and self._is_current()
        return seen.value if seen and is_fresh else None

    def get(self, key: K, look_up: Callable[[], V]) -> V:
        """What is fresh, else what *look_up* says; raises what that raises."""
        known = self.recall(key)
        if known is not None:
            return known
        if self._next_probe is not None and self._clock() < self._next_probe:
            return self._stale(key, Unavailable("the database is not answering"))
        if self._next_probe is not None:
            self._next_probe = self._clock() + PROBE_SECONDS
        return self._ask(key, look_up)

    def forget(self, where: Callable[[K], bool] = lambda key: True) -> None:
        """All that is known by keys for which *where* holds."""
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
