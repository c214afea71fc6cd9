"""
What a call can come back with instead of an answer.

    GalenicError
    ├── Unreachable          no answer came at all
    └── ApiError             the server refused; .status .code .param .request_id
        ├── BadRequest       400, 413, 415, 422: the request has to change
        ├── Unauthenticated  401: no key, or not a known one
        ├── Forbidden        403: the key is not for this
        ├── NotFound         404: no such adapter, alias or key for this tenant
        ├── Conflict         412, 428: written otherwise already, moved meanwhile, or not said what
        └── ServerError      429, 5xx: the same request may succeed later
"""

from typing import Any

import httpx


class GalenicError(Exception):
    """The root of the tree."""


class Unreachable(GalenicError):
    """The server could not be reached, or went away before it answered."""

    def __init__(self, message: str, *, nothing_sent: bool) -> None:
        super().__init__(message)
        self.nothing_sent = nothing_sent


class ApiError(GalenicError):
    """The server's refusal, in its own words."""

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
    """The request has to change before it can succeed."""


class Unauthenticated(ApiError):
    """No key, or none that the server knows."""


class Forbidden(ApiError):
    """The key does not open this."""


class NotFound(ApiError):
    """Nothing of that name for this tenant."""


class Conflict(ApiError):
    """What is written already disagrees."""


class ServerError(ApiError):
    """Not this request's fault; it may succeed later."""


BY_STATUS: dict[int, type[ApiError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    412: Conflict,
    428: Conflict,
    429: ServerError,
}


def raise_for(response: httpx.Response) -> None:
    """Raise what a read *response* says, if it says an error."""
    if response.is_success:
        return
    status = response.status_code
    kind = BY_STATUS.get(status, ServerError if status >= 500 else BadRequest)
    raise kind(status, _error_of(response), response.headers)


def _error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object, or none where something else (a proxy) answered."""
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}
