"""
Bodies of the admin API. Unknown fields are refused by name.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field

from galenic_adapters.errors import Fault
from galenic_adapters.package.manifest import Manifest
from galenic_adapters.package.signature import Policy
from galenic_adapters.refs import AdapterRef
from galenic_server.database.replicas import ReplicaRow
from galenic_server.registry.aliases import Alias, Canary
from galenic_server.registry.rows import Entry
from galenic_server.registry.shares import EVERYONE, Share
from galenic_server.registry.uploads import State, Upload
from galenic_server.schemas.tasks import Body, Flag, Real
from galenic_server.tenancy.keys import Key, Role
from galenic_server.tenancy.limits import MOST, Limits
from galenic_server.tenancy.tenants import Quota, Tenant

TenantName = Annotated[str, Field(min_length=1, max_length=64)]
RefText = Annotated[str, Field(min_length=3, max_length=80)]
Bound = Annotated[int, Field(ge=0, le=2**53, strict=True)]


def _no_number(value: Any) -> Any:
    if isinstance(value, int | float):
        raise ValueError("is a number, not a date and time with its zone")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_no_number)]
MAX_SECONDS = 10 * 366 * 24 * 3600


class SignatureInfo(BaseModel):
    """Says whether this server verified a package's signature, and whose it is."""

    policy: Policy
    is_verified: bool
    signed_by: str | None


class AdapterInfo(BaseModel):
    """Describes a published version. state: ready once every replica knows it."""

    tenant: str
    name: str
    version: int
    digest: str
    state: Literal[State.CHECKED, State.READY]
    num_bytes: int
    created: datetime
    deleted: datetime | None
    signature: SignatureInfo
    manifest: Manifest

    @classmethod
    def of(cls, entry: Entry, seen_by_all: float, policy: Policy) -> Self:
        ref = entry.ref
        return cls(
            tenant=ref.tenant,
            name=ref.name,
            version=ref.version,
            digest=entry.digest,
            state=State.READY if entry.change <= seen_by_all else State.CHECKED,
            num_bytes=entry.num_bytes,
            created=entry.created,
            deleted=entry.deleted,
            signature=SignatureInfo(
                policy=policy,
                is_verified=entry.signed_by is not None,
                signed_by=entry.signed_by,
            ),
            manifest=entry.manifest,
        )


class AdapterPage(BaseModel):
    """A page of adapters. next: what to send as *after* for the next page; null on the last."""

    adapters: list[AdapterInfo]
    next: str | None


class FaultInfo(BaseModel):
    """Describes a fault. path: a JSON path into the package, or the name of a part beside it."""

    path: str
    problem: str


class TriedOut(BaseModel):
    """The result of a dry run: accepted, or the faults that would reject the upload."""

    accepted: bool
    digest: str
    faults: list[FaultInfo]

    @classmethod
    def of(cls, digest: str, faults: Sequence[Fault]) -> Self:
        listed = [FaultInfo(path=fault.path, problem=fault.problem) for fault in faults]
        return cls(accepted=not listed, digest=digest, faults=listed)


class BulkLine(BaseModel):
    """
    The outcome of one line of a bulk upload.

    state: *new*; *there*, if the name has these bytes already; or *failed*, with the error that an
    upload of it alone would get.
    """

    line: int
    state: Literal["new", "there", "failed"]
    name: str | None
    version: int | None = None
    digest: str | None
    error: dict[str, Any] | None = None


class BulkEnd(BaseModel):
    """
    The last line, with the numbers of outcomes; without it the response was cut.

    is_stopped: true if very many lines failed, and those after them were not read.
    """

    kind: Literal["end"] = "end"
    new: int
    there: int
    failed: int
    is_stopped: bool | None = None


class UploadInfo(BaseModel):
    """Describes an upload. id: its Idempotency-Key.   adapter: the version that it made."""

    id: str
    name: str
    digest: str
    state: State
    created: datetime
    adapter: str | None
    faults: list[FaultInfo]

    @classmethod
    def of(cls, upload: Upload, *, is_ready: bool = False) -> Self:
        return cls(
            id=upload.id,
            name=upload.name,
            digest=upload.digest,
            state=State.READY if is_ready else upload.state,
            created=upload.created,
            adapter=str(upload.ref) if upload.ref else None,
            faults=[FaultInfo(path=fault.path, problem=fault.problem) for fault in upload.faults],
        )


class CanaryBody(Body):
    """Sets a canary. weight: how many of a hundred requests it answers."""

    adapter: RefText
    weight: Annotated[int, Field(ge=1, le=99, strict=True)]

    def canary(self, tenant: str) -> Canary:
        return Canary(AdapterRef.parse(tenant, self.adapter), self.weight)


class AliasBody(Body):
    adapter: RefText
    canary: CanaryBody | None = None


class CanaryInfo(BaseModel):
    adapter: str
    weight: int


class AliasInfo(BaseModel):
    """
    Describes an alias.

    etag: the value for If-Match.   converged: every replica answers by this; until then, those in
    waiting_for may answer by its old target.
    """

    tenant: str
    alias: str
    adapter: str
    canary: CanaryInfo | None
    previous: str | None
    changed: datetime
    etag: str
    converged: bool
    waiting_for: list[str]

    @classmethod
    def of(cls, alias: Alias, waiting_for: Sequence[str] = ()) -> Self:
        canary = alias.canary
        return cls(
            tenant=alias.tenant,
            alias=alias.name,
            adapter=str(alias.ref),
            canary=CanaryInfo(adapter=str(canary.ref), weight=canary.weight) if canary else None,
            previous=str(alias.previous) if alias.previous else None,
            changed=alias.changed,
            etag=f'"{alias.change}"',
            converged=not waiting_for,
            waiting_for=list(waiting_for),
        )


class KeyBody(Body):
    """
    Creates a key.

    expires: a time with its zone; null for the server's usual life of a key (GALENIC_KEY_DAYS).
    label: one line.
    """

    tenant: TenantName
    role: Role = Role.CALLER
    expires: Moment | None = None
    label: Annotated[str, Field(max_length=100)] = ""


class RotateBody(Body):
    """
    Rotates a key.

    grace_seconds: how long the old key stays valid.   expires: of the new key; without it, the new
    key lasts as long as the old one was made for.
    """

    grace_seconds: Annotated[int, Field(ge=0, le=30 * 24 * 3600, strict=True)] = 24 * 3600
    expires: Moment | None = None


class ExpireBody(Body):
    expires: Moment


class KeyInfo(BaseModel):
    """Describes a key. replaced_by: the id of the key that replaced it in a rotation."""

    id: str
    tenant: str
    role: Role
    created: datetime
    expires: datetime | None
    revoked: datetime | None
    label: str
    replaced_by: str | None

    @classmethod
    def of(cls, key: Key) -> Self:
        return cls.model_validate(key, from_attributes=True)


class KeyPage(BaseModel):
    """A page of keys. next: what to send as *after* for the next page; null on the last."""

    keys: list[KeyInfo]
    next: str | None


class NewKey(KeyInfo):
    """Describes a new key. key: the secret, shown only once."""

    key: str

    @classmethod
    def made(cls, text: str, key: Key) -> Self:
        return cls(**KeyInfo.of(key).model_dump(), key=text)


class TenantBody(Body):
    """Sets a tenant's own settings; quotas that are left out are the server's."""

    max_adapters: Bound | None = None
    max_bytes: Bound | None = None
    suspended: Flag = False

    def quota(self) -> Quota:
        return Quota(self.max_adapters, self.max_bytes)


class TenantInfo(BaseModel):
    """
    Describes a tenant and its usage, which includes deleted versions until they are purged.

    suspended: the time since which its keys are refused.
    """

    tenant: str
    created: datetime
    suspended: datetime | None
    max_adapters: int | None
    max_bytes: int | None
    num_adapters: int
    num_bytes: int

    @classmethod
    def of(cls, tenant: Tenant) -> Self:
        return cls(
            tenant=tenant.name,
            created=tenant.created,
            suspended=tenant.suspended,
            max_adapters=tenant.quota.max_adapters,
            max_bytes=tenant.quota.max_bytes,
            num_adapters=tenant.num_adapters,
            num_bytes=tenant.num_bytes,
        )


class TenantPage(BaseModel):
    """A page of tenants. next: what to send as *after* for the next page; null on the last."""

    tenants: list[TenantInfo]
    next: str | None


class ShareBody(Body):
    """Sets the tenants that may use a name: ["*"] for everyone, [] for nobody."""

    tenants: Annotated[list[TenantName | Literal["*"]], Field(max_length=10_000)]


class ShareInfo(BaseModel):
    """Describes a share. name: an adapter or alias of *owner*; others use ``owner/name``."""

    owner: str
    name: str
    tenants: list[str]
    with_everyone: bool

    @classmethod
    def of(cls, share: Share) -> Self:
        return cls(
            owner=share.owner,
            name=share.name,
            tenants=list(share.tenants),
            with_everyone=EVERYONE in share.tenants,
        )


class ReplicaInfo(BaseModel):
    """Describes a replica. seen: number of its last known change.   heard: its last report."""

    id: str
    place: str
    started: datetime
    heard: datetime
    seen: int

    @classmethod
    def of(cls, replica: ReplicaRow) -> Self:
        return cls.model_validate(replica, from_attributes=True)


class BroughtInfo(BaseModel):
    """Counts an archive's items, including those that existed already."""

    num_adapters: int
    num_deleted: int
    num_aliases: int
    num_shares: int

    @classmethod
    def of(cls, counts: Counter[str]) -> Self:
        """Convert the numbers of items by kind."""
        return cls(
            num_adapters=counts["adapter"],
            num_deleted=counts["deleted"],
            num_aliases=counts["alias"],
            num_shares=counts["share"],
        )


class LoadBody(Body):
    """
    A request to load an adapter, in vLLM's form.

    lora_path: ``name@version``, a name, or a digest in the registry; never a path or an address.
    """

    lora_name: Annotated[str, Field(min_length=1, max_length=64)]
    lora_path: Annotated[str, Field(min_length=1, max_length=200)]
    load_inplace: Flag = False
    is_3d_lora_weight: Literal[False] = False


class UnloadBody(Body):
    lora_name: Annotated[str, Field(min_length=1, max_length=64)]
    lora_int_id: int | None = None


Rate = Annotated[int, Field(ge=1, le=MOST, strict=True)] | None


class LimitsBody(Body):
    """Sets all of a tenant's limits; null or a missing one is no bound."""

    requests_per_minute: Rate = None
    tokens_per_minute: Rate = None
    concurrent: Rate = None
    weight: Annotated[Real, Field(ge=0.001, le=1000)] = 1.0

    def limits(self) -> Limits:
        return Limits(**self.model_dump())


class LimitsInfo(BaseModel):
    tenant: str
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent: int | None
    weight: float
