"""
The states of a package during an upload: offered as bytes, checked as a candidate, published.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from galenic_adapters.errors import Conflict, QuotaExceeded
from galenic_adapters.package.file import Package
from galenic_adapters.package.signature import Signed, Use
from galenic_adapters.refs import AdapterRef
from galenic_server.tenancy.tenants import Tenant


@dataclass(frozen=True, slots=True)
class Offer:
    """
    Holds a package as it was sent.

    version: None for the next one.   upload: its Idempotency-Key.   bundle: its signature.
    is_late: it comes from an archive, so it was signed long ago.
    """

    tenant: str
    name: str
    data: bytes
    version: int | None = None
    upload: str | None = None
    bundle: bytes | None = None
    is_late: bool = False

    @property
    def use(self) -> Use:
        return Use(self.tenant, self.name, datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Candidate:
    """Holds a package that passed every check; without a *version*, it becomes the next one."""

    name: str
    package: Package
    version: int | None = None
    signed: Signed | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """Says where a package is stored. is_new: False if an earlier upload had stored it."""

    ref: AdapterRef
    is_new: bool


Refused = Conflict | QuotaExceeded


@dataclass(slots=True)
class Numbering:
    """
    Assigns versions to many candidates before any of them is written.

    kept: the tenant, with the candidates placed so far counted.
    digests: digest by version by name; None for deleted versions.
    """

    kept: Tenant
    check_quota: Callable[[Tenant], None]
    digests: dict[str, dict[int, str | None]] = field(default_factory=dict)

    def add(self, name: str, version: int, digest: str | None) -> None:
        self.digests.setdefault(name, {})[version] = digest

    def place(self, candidate: Candidate) -> Published | Refused:
        """Assign a version, or return why not; new candidates count for those that follow."""
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
        """Return the newest version with these bytes, else the next number."""
        digests = self.digests.get(candidate.name, {})
        wanted = candidate.package.digest
        same = (version for version, digest in digests.items() if digest == wanted)
        return max(same, default=max(digests, default=0) + 1)


def check_same(ref: AdapterRef, held: str | None, digest: str) -> None:
    """Raise `Conflict` if *ref*, stored as *held* (None: deleted), has another digest."""
    if held is None:
        raise Conflict(f"{ref} was deleted; its number is not given again")
    if held != digest:
        raise Conflict(f"{ref} is {held} and never changes; these bytes are {digest}")
