"""
A package on its way into the registry: offered as bytes, checked to be a candidate, published.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from galenic_adapters.errors import Conflict, QuotaExceeded
from galenic_adapters.package.file import Package
from galenic_adapters.package.signature import Signed
from galenic_adapters.refs import AdapterRef
from galenic_server.tenancy.tenants import Tenant


@dataclass(frozen=True, slots=True)
class Offer:
    """
    A package as it came.

    version: None for the next one.   upload: its sender's key for it.   bundle: its signature.
    """

    tenant: str
    name: str
    data: bytes
    version: int | None = None
    upload: str | None = None
    bundle: bytes | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A package that passed every check; without a *version*, to be the next one of its name."""

    name: str
    package: Package
    version: int | None = None
    signed: Signed | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """Where a package is. is_new: False where an earlier upload of it had put it there."""

    ref: AdapterRef
    is_new: bool


Refused = Conflict | QuotaExceeded


@dataclass(slots=True)
class Shelf:
    """
    Finds the version of each of many candidates, before any of them is written.

    kept: the tenant, with what it keeps once those found so far are written.
    digests: of the versions of a name; None once deleted.
    """

    kept: Tenant
    check_quota: Callable[[Tenant], None]
    digests: dict[str, dict[int, str | None]] = field(default_factory=dict)

    def add(self, name: str, version: int, digest: str | None) -> None:
        self.digests.setdefault(name, {})[version] = digest

    def place(self, candidate: Candidate) -> Published | Refused:
        """Find its version; a candidate that is new is on the shelf for those that follow."""
        version = candidate.version or self._version(candidate)
        ref = AdapterRef(self.kept.name, candidate.name, version)
        digest = candidate.package.digest
        try:
            if version in self.digests.get(candidate.name, {}):
                check_same(ref, self.digests[candidate.name][version], digest)
                return Published(ref, is_new=False)
            after = self.kept.with_one_more(len(candidate.package.data))
            self.check_quota(after)
        except (Conflict, QuotaExceeded) as refused:
            return refused
        self.kept = after
        self.add(candidate.name, version, digest)
        return Published(ref, is_new=True)

    def _version(self, candidate: Candidate) -> int:
        """The newest version that holds these bytes, else the next one."""
        digests = self.digests.get(candidate.name, {})
        same = (version for version, one in digests.items() if one == candidate.package.digest)
        return max(same, default=max(digests, default=0) + 1)


def check_same(ref: AdapterRef, held: str | None, digest: str) -> None:
    """Raise `Conflict` unless *ref*, which is of digest *held* (None: deleted), has these bytes."""
    if held is None:
        raise Conflict(f"{ref} was deleted; its number is not given again")
    if held != digest:
        raise Conflict(f"{ref} is {held} and never changes; these bytes are {digest}")
