"""
Connection settings and retries, for both clients.

    GALENIC_URL       where the server is (http://127.0.0.1:8000)
    GALENIC_API_KEY   the key it gave you
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from galenic_client.calls import Call
from galenic_client.errors import GalenicError, ServerError, Unreachable

DEFAULT_URL = "http://127.0.0.1:8000"
LONGEST_WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Retries:
    """Decides how often a call is retried, and when that is safe."""

    num: int = 2

    def pause_seconds(self, failed: int, call: Call[Any], error: GalenicError) -> float | None:
        """Return the pause after the *failed*-th attempt (from 0), or None to give up."""
        if failed >= self.num or not self._is_safe(call, error):
            return None
        asked = error.retry_after_seconds if isinstance(error, ServerError) else None
        return min(LONGEST_WAIT_SECONDS, 0.5 * 2**failed if asked is None else asked)

    def _is_safe(self, call: Call[Any], error: GalenicError) -> bool:
        if isinstance(error, Unreachable):
            return call.is_repeatable or error.nothing_sent
        # An answer of 429 or 503 means that nothing was done.
        return isinstance(error, ServerError) and error.may_retry and error.status in (429, 503)


def http_options(url: str | None, key: str | None, timeout: float) -> dict[str, Any]:
    key = key or os.environ.get("GALENIC_API_KEY")
    url = url or os.environ.get("GALENIC_URL") or DEFAULT_URL
    return {
        "base_url": url.rstrip("/").removesuffix("/v1"),  # URLs for OpenAI's clients end so
        "headers": {"authorization": f"Bearer {key}"} if key else {},
        "timeout": httpx.Timeout(timeout, connect=10.0),
    }


def unreachable(error: httpx.TransportError, url: httpx.URL) -> Unreachable:
    if isinstance(error, httpx.UnsupportedProtocol):
        return Unreachable(f"{url} does not begin with http:// or https://", nothing_sent=True)
    # If no connection was made, nothing was sent.
    refused = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
    return Unreachable(f"{url} gave no answer ({type(error).__name__})", nothing_sent=refused)


def bytes_of(package: bytes | Path) -> bytes:
    return package if isinstance(package, bytes) else package.read_bytes()
