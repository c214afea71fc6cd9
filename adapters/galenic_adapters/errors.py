"""
Everything that can go wrong, as one tree; the server maps it to HTTP in one table.

    GalenicError
    ├── BadInput            the caller's fields, naming the field
    │   ├── TooLong         more tokens than the context holds
    │   └── Unsupported     a sampling field that cannot work beside a virtual prompt
    ├── BadFactor           tensors that are no factor, or do not fit the metaprompt
    ├── RejectedUpload      a package with faults, all of them listed
    ├── NotFound            an adapter, version, alias or key that this tenant does not have
    ├── Conflict            a version exists and never changes, or an alias moved meanwhile
    ├── Unconditional       a write over something that is there, without saying what
    ├── QuotaExceeded       the tenant has no room for that
    ├── WrongTask           the adapter answers another task than the route's
    ├── LimitReached        a tenant has used what it may, for now
    ├── NotServed           a route that this server's engine does not have
    └── Unavailable         the engine or the database is not there just now
        └── EngineDied      the engine ended while it worked on this
            └── Quarantined the engine ended more than once while it worked on this

Messages name the thing and the two values that disagree; never a note's text, never a tensor's.
"""

from dataclasses import dataclass
from typing import Self


class GalenicError(Exception):
    """The root of the tree."""


class BadInput(GalenicError):
    """A field of the caller's is not what it has to be; *field* is its path."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem

    def under(self, path: str) -> Self:
        """The same error, seen from outside of the document at *path*."""
        return type(self)(f"{path}.{self.field}", self.problem)


class TooLong(BadInput):
    """The rendered text, with prompt and answer, does not fit into the context."""


class Unsupported(BadInput):
    """A field that is known and refused, because it cannot work here."""


class BadFactor(GalenicError):
    """The tensors are not a factor, or not one of this metaprompt."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with an upload: where (a JSON path or a tensor's name), and what."""

    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class RejectedUpload(GalenicError):
    """The package is refused; *faults* holds every reason found."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


class NotFound(GalenicError):
    """No such thing for this tenant; another tenant's looks the same."""


class Conflict(GalenicError):
    """The write disagrees with what is already written."""


class Unconditional(GalenicError):
    """The write has to say which state it means to change."""


class QuotaExceeded(GalenicError):
    """More adapters, or more bytes, than the tenant may keep."""


class WrongTask(GalenicError):
    """The adapter was trained for another task."""


class NotServed(GalenicError):
    """Nothing to try again: this server is not set up for it."""


class Unavailable(GalenicError):
    """Try again later: the engine or the database is not answering."""


class EngineDied(Unavailable):
    """The engine ended while this request was in flight; it is started again."""


class Quarantined(EngineDied):
    """The engine ended each time that it was asked this: it is not asked again for a while."""

    should_retry = False


class LimitReached(GalenicError):
    """The tenant has used what it may; in *retry_after_seconds* there is room again."""

    def __init__(self, problem: str, retry_after_seconds: float) -> None:
        super().__init__(problem)
        self.retry_after_seconds = retry_after_seconds
