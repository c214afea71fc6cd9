"""
The tree of errors; the server maps it to HTTP in one table.

    GalenicError
    ├── BadInput            a field of the caller's is wrong; names the field
    │   ├── TooLong         more tokens than the context holds
    │   └── Unsupported     a known field that cannot work here
    ├── BadFactor           tensors that are no factor, or do not fit the metaprompt
    ├── RejectedUpload      a package with faults, all of them listed
    ├── NotFound            an adapter, version, alias or key that this tenant does not have
    ├── Conflict            the version exists already, or the alias moved meanwhile
    ├── Unconditional       an overwrite without a precondition
    ├── QuotaExceeded       the tenant's storage is full
    ├── WrongTask           the adapter is for another task than the route
    ├── LimitReached        the tenant's rate limit is reached
    ├── NotServed           a route that this server's engine does not have
    └── Unavailable         the engine or the database does not answer now
        ├── TimedOut        the request took longer than a request may
        └── EngineDied      the engine crashed during this request
            └── Quarantined the engine crashed more than once during this request

Messages name the thing and the two values that disagree; never a note's text, never a tensor's.
"""

from dataclasses import dataclass
from typing import Self


class GalenicError(Exception):
    """Is the root of the tree."""


class BadInput(GalenicError):
    """Rejects a field of the caller's; *field* is its path."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem

    def under(self, path: str) -> Self:
        """Return the same error with the field's path prefixed by *path*."""
        return type(self)(f"{path}.{self.field}", self.problem)


class TooLong(BadInput):
    """Rejects a text that, with prompt and answer, does not fit into the context."""


class Unsupported(BadInput):
    """Rejects a known field that cannot work here."""


class BadFactor(GalenicError):
    """Rejects tensors that are not a factor, or do not fit the metaprompt."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Describes one fault of an upload: where (a JSON path or a tensor's name), and what."""

    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class RejectedUpload(GalenicError):
    """Rejects a package; *faults* holds every reason found."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


class NotFound(GalenicError):
    """Says that this tenant has no such thing; another tenant's thing looks the same."""


class Conflict(GalenicError):
    """Rejects a write that disagrees with what is stored."""


class Unconditional(GalenicError):
    """Rejects a write without a precondition that names the state to be changed."""


class QuotaExceeded(GalenicError):
    """Rejects more adapters, or more bytes, than the tenant may keep."""


class WrongTask(GalenicError):
    """Rejects an adapter that was trained for another task."""


class NotServed(GalenicError):
    """Says that this server is not set up for the request; a retry does not help."""


class Unavailable(GalenicError):
    """Says that the engine or the database does not answer now; a retry may succeed."""


class TimedOut(Unavailable):
    """Says that the request took longer than a request may; the engine stopped working for it."""


class EngineDied(Unavailable):
    """Says that the engine crashed while this request was in flight; it is restarted."""


class Quarantined(EngineDied):
    """Rejects a request that crashed the engine every time, for a while."""

    should_retry = False


class LimitReached(GalenicError):
    """Rejects a request over the tenant's rate limit, until *retry_after_seconds* have passed."""

    def __init__(self, problem: str, retry_after_seconds: float) -> None:
        super().__init__(problem)
        self.retry_after_seconds = retry_after_seconds
