"""
The errors that calls raise.

    GalenicError
    ├── Unreachable          no answer came at all
    └── ApiError             the server refused; .status .code .param .request_id
        ├── BadRequest       400, 413, 415, 422: the request has to change
        ├── Unauthenticated  401: no key, or not a known one
        ├── Forbidden        403: the key is not for this
        ├── NotFound         404: no such adapter, alias or key for this tenant
        ├── Conflict         412, 428: it exists with other content, has changed, or needs If-Match
        └── ServerError      429, 5xx: the same request may succeed later
"""

from typing import Any

import httpx


class GalenicError(Exception):
    """Is the root of the tree."""


class Unreachable(GalenicError):
    """Says that the server could not be reached, or disconnected before it answered."""

    def __init__(self, message: str, *, nothing_sent: bool) -> None:
        super().__init__(message)
        self.nothing_sent = nothing_sent


class ApiError(GalenicError):
    """Holds the server's error response, with its message."""

    def __init__(self, status: int, error: dict[str, Any], headers: httpx.Headers) -> None:
        super().__init__(f"{error.get('message') or 'no reason given'} (HTTP {status})")
        self.status = status
        self.code: str | None = error.get("code")
        self.param: str | None = error.get("param")
        self.faults: list[dict[str, str]] = error.get("faults") or []
        self.request_id = headers.get("x-request-id")
        self.may_retry = headers.get("x-should-retry") != "false"
        wait = headers.get("retry-after", "")
        self.retry_after_seconds = float(wait) if wait.isascii() and wait.isdigit() else None


class BadRequest(ApiError):
    """Says that the request has to change before it can succeed."""


class Unauthenticated(ApiError):
    """Says that there is no key, or that the server does not know it."""


class Forbidden(ApiError):
    """Says that the key is not allowed to do this."""


class NotFound(ApiError):
    """Says that this tenant has nothing of that name."""


class Conflict(ApiError):
    """Says that a write disagrees with what is stored."""


class ServerError(ApiError):
    """Says that the server failed; the same request may succeed later."""


BY_STATUS: dict[int, type[ApiError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    412: Conflict,
    428: Conflict,
    429: ServerError,
}


def raise_for(response: httpx.Response) -> None:
    """Raise the error in *response*, if it is one; its body must have been read."""
    if response.is_success:
        return
    status = response.status_code
    kind = BY_STATUS.get(status, ServerError if status >= 500 else BadRequest)
    raise kind(status, _error_of(response), response.headers)


def _error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error object; an empty one if something else (a proxy) answered."""
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}
