"""
Keeps the public keys of a token issuer, fetched in a thread of their own.

No request waits for the issuer: an issuer that hangs or is away locks nobody out, and key ids that
strangers make up cost it a fetch each few seconds at most.
"""

import threading
import time
from collections.abc import Mapping

import jwt
from jwt import PyJWK, PyJWKClient

from galenic_adapters.errors import Unavailable

FETCH_SECONDS = 5.0
MOST_STALE_SECONDS = 86_400.0


class IssuerKeys:
    """
    Fetches keys every *every_seconds*, sooner if an unknown one is asked for.

    pause_seconds: the shortest time between two fetches; it doubles with each that fails.
    """

    def __init__(self, url: str, *, every_seconds: float, pause_seconds: float) -> None:
        self._client = PyJWKClient(url, cache_jwk_set=False, timeout=FETCH_SECONDS)
        self._every_seconds = every_seconds
        self._pause_seconds = pause_seconds
        self._keys: Mapping[str, PyJWK] = {}
        self._fetched_at: float | None = None
        self._is_wanted = threading.Event()
        self._is_closed = threading.Event()
        threading.Thread(target=self._run, daemon=True, name="issuer keys").start()

    def find(self, kid: str) -> PyJWK | None:
        """
        Return the key named *kid*, or None if the issuer had no such key lately; never waits.

        Raises `Unavailable` if its keys were not fetched for a day.
        """
        at = self._fetched_at
        if at is None or time.monotonic() > at + MOST_STALE_SECONDS:
            raise Unavailable("the token issuer's keys cannot be fetched")
        found = self._keys.get(kid)
        if found is None:
            self._is_wanted.set()
        return found

    def close(self) -> None:
        self._is_closed.set()
        self._is_wanted.set()

    def _run(self) -> None:
        pause_seconds = self._pause_seconds
        while not self._is_closed.is_set():
            self._is_wanted.clear()
            is_done = self._fetch()
            pause_seconds = self._pause_seconds if is_done else 2 * pause_seconds
            pause_seconds = min(pause_seconds, self._every_seconds)
            self._is_closed.wait(pause_seconds)
            if is_done:
                self._is_wanted.wait(self._every_seconds - pause_seconds)

    def _fetch(self) -> bool:
        """Replace all keys; returns whether the issuer told them."""
        try:
            keys = self._client.get_signing_keys()
        except (jwt.PyJWTError, OSError, ValueError):
            return False
        self._keys = {key.key_id: key for key in keys if key.key_id}
        self._fetched_at = time.monotonic()
        return True
