"""
Writes and reads a tenant as JSON lines: adapters with their bytes, aliases, and shares.

    {"kind": "tenant", "form": 1, "tenant": …}
    {"kind": "adapter", "name", "version", "digest", "package": base64, "signature": bundle or null}
    {"kind": "deleted", "name", "version", "digest", "manifest"}     a number that stays taken
    {"kind": "alias", …}  {"kind": "share", …}
    {"kind": "end", "num_lines", "sha256"}                           of every byte before this line

It holds no keys, and no bytes of deleted versions. An archive is as untrusted as any upload: every
line is parsed as data, and every package is checked again on import.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from galenic_adapters.errors import BadInput, Fault, RejectedUpload
from galenic_adapters.package.file import MAX_PACKAGE_BYTES, package_digest
from galenic_adapters.package.manifest import Digest, Manifest, Name
from galenic_adapters.package.signature import MAX_BUNDLE_BYTES
from galenic_adapters.refs import AdapterRef
from galenic_server.registry.aliases import Alias, Canary
from galenic_server.registry.offers import Offer
from galenic_server.registry.rows import Entry
from galenic_server.registry.store import Store

MAX_LINE_BYTES = MAX_PACKAGE_BYTES * 3 // 2 + 2 * MAX_BUNDLE_BYTES
PAGE = 200


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


Version = Annotated[int, Field(ge=1, lt=10**9)]


class TenantLine(_Line):
    kind: Literal["tenant"] = "tenant"
    form: Literal[1] = 1
    tenant: Name


class PackageLine(_Line):
    """Parses a line of a bulk upload: a package, and the name and version to publish it as."""

    kind: Literal["adapter"] = "adapter"
    name: Name
    version: Version | None = None
    digest: Digest | None = None
    package: str
    signature: Annotated[str, Field(max_length=MAX_BUNDLE_BYTES)] | None = None

    def offer(self, tenant: str) -> Offer:
        """Read the line as an offer; raises `RejectedUpload` if its digest does not match."""
        bundle = self.signature.encode() if self.signature else None
        return Offer(tenant, self.name, self._data(), self.version, bundle=bundle)

    def _data(self) -> bytes:
        try:
            data = base64.b64decode(self.package, validate=True)
        except (binascii.Error, ValueError):
            raise RejectedUpload(Fault("package", "is no base64")) from None
        if self.digest not in (None, found := package_digest(data)):
            raise RejectedUpload(Fault("digest", f"is {self.digest}, the package is {found}"))
        return data


class Adapter(PackageLine):
    """Parses a version in an archive, where version and digest are required."""

    version: Version
    digest: Digest

    def offer(self, tenant: str) -> Offer:
        return replace(super().offer(tenant), is_late=True)

    def ref(self, tenant: str) -> AdapterRef:
        return AdapterRef(tenant, self.name, self.version)


def _manifest(value: Any) -> Any:
    """Read a manifest of any schema; nested in a line, pydantic reads only the newest itself."""
    return Manifest.model_validate_json(json.dumps(value)) if isinstance(value, dict) else value


class Deleted(_Line):
    """Parses a version that was deleted; its number stays taken."""

    kind: Literal["deleted"] = "deleted"
    name: Name
    version: Version
    digest: Digest
    manifest: Annotated[Manifest, BeforeValidator(_manifest)]

    def ref(self, tenant: str) -> AdapterRef:
        return AdapterRef(tenant, self.name, self.version)


class Pointer(_Line):
    kind: Literal["alias"] = "alias"
    alias: Name
    adapter: tuple[Name, Version]
    canary: tuple[Name, Version] | None = None
    weight: Annotated[int, Field(ge=1, le=99)] | None = None

    def target(self, tenant: str) -> tuple[AdapterRef, Canary | None]:
        ref = AdapterRef(tenant, *self.adapter)
        if self.canary is None or self.weight is None:
            return ref, None
        return ref, Canary(AdapterRef(tenant, *self.canary), self.weight)


class Lent(_Line):
    kind: Literal["share"] = "share"
    name: Name
    tenants: Annotated[list[Name | Literal["*"]], Field(min_length=1, max_length=10_000)]


class End(_Line):
    kind: Literal["end"] = "end"
    num_lines: int
    sha256: str


Item = Adapter | Deleted | Pointer | Lent
AnyLine = Annotated[TenantLine | Item | End, Field(discriminator="kind")]
LINE: TypeAdapter[TenantLine | Item | End] = TypeAdapter(AnyLine)


def write(store: Store, tenant: str) -> Iterator[bytes]:
    """Yield the archive, line by line; a version that is deleted meanwhile is left out."""
    seen, num_lines = hashlib.sha256(), 0
    for line in _lines(store, tenant):
        text = _text(line)
        seen.update(text)
        num_lines += 1
        yield text
    yield _text(End(num_lines=num_lines, sha256=seen.hexdigest()))


def _text(line: BaseModel) -> bytes:
    return line.model_dump_json(exclude_none=True).encode() + b"\n"


def _lines(store: Store, tenant: str) -> Iterator[TenantLine | Item]:
    yield TenantLine(tenant=tenant)
    # Aliases are read first and written last, so that every version they point to is in between.
    aliases, shares = store.aliases.of(tenant), store.shares.of(tenant)
    for entry, data, signature in store.versions.everything_of(tenant, page=PAGE):
        yield _line(entry, data, signature)
    for alias in aliases.values():
        yield _pointer(alias)
    for share in shares:
        yield Lent(name=share.name, tenants=list(share.tenants))


def _line(entry: Entry, data: bytes | None, signature: str | None) -> Adapter | Deleted:
    ref = entry.ref
    if data is None:
        return Deleted(
            name=ref.name, version=ref.version, digest=entry.digest, manifest=entry.manifest
        )
    return Adapter(
        name=ref.name,
        version=ref.version,
        digest=entry.digest,
        package=base64.b64encode(data).decode(),
        signature=signature,
    )


def _pointer(alias: Alias) -> Pointer:
    canary = alias.canary
    return Pointer(
        alias=alias.name,
        adapter=(alias.ref.name, alias.ref.version),
        canary=(canary.ref.name, canary.ref.version) if canary else None,
        weight=canary.weight if canary else None,
    )


def read(lines: Iterable[bytes]) -> Iterator[tuple[int, Item]]:
    """
    Yield each item with its line's number.

    Raises `BadInput` if it is no archive, or was truncated or changed. That is known only at its
    end, so read all of it once before using any of it.
    """
    seen, num_lines, end = hashlib.sha256(), 0, None
    for text in lines:
        if end is not None:
            raise BadInput("archive", f"continues after its end, in line {num_lines + 2}")
        line = _parsed(text, num_lines + 1)
        if isinstance(line, TenantLine) != (num_lines == 0):
            raise BadInput("archive", "does not begin with its one line of kind tenant")
        if isinstance(line, End):
            end = line
            continue
        seen.update(text)
        num_lines += 1
        if not isinstance(line, TenantLine):
            yield num_lines, line
    if end is None:
        raise BadInput("archive", f"ends after {num_lines} lines, without its last one")
    if (end.num_lines, end.sha256) != (num_lines, seen.hexdigest()):
        raise BadInput("archive", "does not match its last line; it was changed or truncated")


def parse_package_line(text: bytes) -> PackageLine:
    """Read a line of a bulk upload; raises `BadInput`."""
    try:
        return PackageLine.model_validate_json(text)
    except ValidationError as error:
        raise BadInput("line", f"{_place(error)} is not valid") from None
    except RecursionError:
        raise BadInput("line", "is nested too deeply") from None


def _parsed(text: bytes, number: int) -> TenantLine | Item | End:
    try:
        return LINE.validate_json(text)
    except ValidationError as error:
        raise BadInput("archive", f"line {number}: {_place(error)} is not valid") from None
    except RecursionError:
        raise BadInput("archive", f"line {number} is nested too deeply") from None


def _place(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    return _printable(".".join(str(step)[:64] for step in first["loc"]) or "it")


def _printable(text: str) -> str:
    return text.encode("unicode_escape").decode()
