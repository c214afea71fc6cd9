"""
Keeps requests that crashed the engine away from it for an hour.
"""

import hashlib
import hmac
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from galenic_adapters.errors import EngineDied, Quarantined
from galenic_server.engine.contract import Work

QUARANTINE_SECONDS = 3600.0
MOST_SUSPECTS = 10_000


class Quarantine:
    """
    Remembers requests that were in flight when the engine crashed, by a keyed hash of their input.

    One that was in flight at *num_deaths* crashes is refused for an hour.
    """

    def __init__(self, num_deaths: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._num_deaths = num_deaths
        self._clock = clock
        self._key = secrets.token_bytes(32)
        # Time of the last crash and number of crashes by hash, the oldest first.
        self._deaths: OrderedDict[bytes, tuple[float, int]] = OrderedDict()

    def check(self, work: Work) -> None:
        """Raise `Quarantined` if *work* has crashed the engine too often."""
        self._forget_old()
        if self._deaths and self._count(self._hash(work)) >= self._num_deaths:
            raise Quarantined("this request crashed the engine every time")

    @contextmanager
    def watch(self, work: Work) -> Iterator[None]:
        """
        Watch *work* while it is in the engine.

        Raises `Quarantined` instead of the `EngineDied` that reaches the limit. Equal requests in
        flight at the same crash count it once.
        """
        began = self._clock()
        try:
            yield
        except EngineDied:
            hashed = self._hash(work)
            last, count = self._deaths.get(hashed, (-math.inf, 0))
            if last < began:
                self._remember(hashed, count + 1)
            self.check(work)
            raise

    def _remember(self, hashed: bytes, num_deaths: int) -> None:
        self._deaths[hashed] = (self._clock(), num_deaths)
        self._deaths.move_to_end(hashed)
        if len(self._deaths) > MOST_SUSPECTS:
            self._deaths.popitem(last=False)

    def _count(self, hashed: bytes) -> int:
        return self._deaths.get(hashed, (0.0, 0))[1]

    def _forget_old(self) -> None:
        horizon = self._clock() - QUARANTINE_SECONDS
        while self._deaths and next(iter(self._deaths.values()))[0] < horizon:
            self._deaths.popitem(last=False)

    def _hash(self, work: Work) -> bytes:
        asked = repr((work.tenant, work.adapter, list(work.text_ids), work.how))
        return hmac.new(self._key, asked.encode(), hashlib.sha256).digest()
