"""
Makes and verifies signatures of packages, in the format of OpenSSF Model Signing with offline keys.

A signature is a Sigstore bundle: a DSSE envelope around an in-toto statement with the package's
sha256. `sign` makes the same as ``model_signing sign key``. That library is not used, since it
brings Sigstore's network client and a dozen packages that a check does not need.

https://github.com/ossf/model-signing-spec
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from galenic_adapters.errors import BadInput, Fault, RejectedUpload
from galenic_adapters.refs import check_name

MAX_BUNDLE_BYTES = 32 << 10
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
USE_KEY = "galenic_use"
M = TypeVar("M", bound=BaseModel)
HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}


class Policy(StrEnum):
    """Says whether packages have to be signed."""

    NONE = "none"  # signatures are ignored
    OPTIONAL = "optional"  # a signature must be valid if there is one
    REQUIRED = "required"  # every package needs a valid signature
    BOUND = "bound"  # and one that names its tenant and its adapter, and is recent


@dataclass(frozen=True, slots=True)
class Signed:
    """Holds a verified signature, and the name of the key that made it."""

    by: str
    bundle: str


@dataclass(frozen=True, slots=True)
class Use:
    """Says what a package is signed for, or offered as; *at* is the time of signing, or now."""

    tenant: str
    name: str
    at: datetime

    @classmethod
    def of(cls, text: str) -> Self:
        """Read TENANT/NAME as a use from now on; raises `BadInput`."""
        tenant, _, name = text.partition("/")
        return cls(check_name("tenant", tenant), check_name("name", name), datetime.now(UTC))

    def __str__(self) -> str:
        return f"{self.tenant}/{self.name}"


@dataclass(frozen=True, slots=True)
class Signatures:
    """
    Checks signatures by a policy and trusted public keys, by name.

    A signature that names a use is good for that use only, and for *life* after it was made. Those
    of OpenSSF's own tools name none.
    """

    policy: Policy = Policy.NONE
    keys: Mapping[str, ec.EllipticCurvePublicKey] = field(default_factory=dict)
    life: timedelta = timedelta(days=30)

    def check(
        self, digest: str, bundle: bytes | None, use: Use, *, is_late: bool = False
    ) -> Signed | None:
        """
        Verify *bundle* as a signature of *digest*; raises `RejectedUpload` by the policy.

        is_late: the signature may have outlived its *life*, for packages that were published once.
        """
        if self.policy is Policy.NONE:
            return None
        if bundle is None:
            if self.policy is not Policy.OPTIONAL:
                raise _refused("is missing; this server takes signed packages only")
            return None
        return Signed(self._signer(digest, bundle, use, is_late=is_late), bundle.decode())

    def _check_use(self, signed: Use | None, use: Use, *, is_late: bool) -> None:
        if signed is None:
            if self.policy is Policy.BOUND:
                raise _refused("names no tenant and adapter; sign with --for TENANT/NAME")
        elif str(signed) != str(use):
            raise _refused(f"is for {signed}, not for {use}")
        elif not is_late and abs(use.at - signed.at) > self.life:
            raise _refused(f"is of {signed.at:%Y-%m-%d}, and good for {self.life.days} days")

    def _signer(self, digest: str, text: bytes, use: Use, *, is_late: bool) -> str:
        """Return the name of the trusted key that made the signature; raises `RejectedUpload`."""
        if len(text) > MAX_BUNDLE_BYTES:
            raise _refused(f"has {len(text):,} bytes, at most {MAX_BUNDLE_BYTES:,}")
        envelope = _parse(_Bundle, text, "is no Sigstore bundle of Model Signing").envelope
        payload, signature = _decoded(envelope.payload), _decoded(envelope.signatures[0].sig)
        names = (name for name, key in self.keys.items() if _has_signed(key, signature, payload))
        if (name := next(names, None)) is None:
            raise _refused("is of no key that this server trusts, or not of this statement")
        statement = _parse(_Statement, payload, "is no statement of Model Signing")
        statement.check_names(digest)
        self._check_use(statement.predicate.use, use, is_late=is_late)
        return name


def read_keys(folder: Path) -> dict[str, ec.EllipticCurvePublicKey]:
    """Read the public keys (PEM, P-256, P-384 or P-521) in *folder*, named after their files."""
    return {path.stem: _read_public(path) for path in sorted(folder.glob("*.pem"))}


def sign(data: bytes, name: str, private_pem: bytes, use: Use | None = None) -> str:
    """
    Sign a package's bytes as ``model_signing sign key`` does; raises `BadInput`.

    With *use* the statement says what for, in a field that other tools pass over.
    """
    key = _private(private_pem)
    digest = hashlib.sha256(data)
    resource = {"name": name, "algorithm": "sha256", "digest": digest.hexdigest()}
    root = hashlib.sha256(digest.digest()).hexdigest()
    statement: dict[str, Any] = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": [resource],
        },
    }
    if use is not None:
        named = {"tenant": use.tenant, "name": use.name, "at": use.at.isoformat()}
        statement["predicate"] |= {USE_KEY: named}
    payload = json.dumps(statement).encode()
    signature = key.sign(_pae(payload), ec.ECDSA(HASHES[key.curve.name]))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    hint = {"publicKey": {"hint": fingerprint(key.public_key())}, "tlogEntries": []}
    bundle = {"mediaType": MEDIA_TYPE, "verificationMaterial": hint, "dsseEnvelope": envelope}
    return json.dumps(bundle)


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return the name that Model Signing gives a key."""
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


class _Signature(_Part):
    sig: str


class _Envelope(_Part):
    payload: str
    payload_type: Annotated[Literal["application/vnd.in-toto+json"], Field(alias="payloadType")]
    signatures: Annotated[list[_Signature], Field(min_length=1, max_length=1)]


class _Bundle(_Part):
    envelope: Annotated[_Envelope, Field(alias="dsseEnvelope")]


class _Resource(_Part):
    algorithm: str
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Use(_Part):
    tenant: str
    name: str
    at: AwareDatetime


class _Predicate(_Part):
    named_use: Annotated[_Use | None, Field(alias=USE_KEY)] = None
    resources: Annotated[list[_Resource], Field(min_length=1, max_length=100)]

    @property
    def use(self) -> Use | None:
        named = self.named_use
        return Use(named.tenant, named.name, named.at) if named else None


class _Root(_Part):
    sha256: str


class _Subject(_Part):
    digest: _Root


class _Statement(_Part):
    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    predicate_type: Annotated[
        Literal["https://model_signing/signature/v1.0"], Field(alias="predicateType")
    ]
    subject: Annotated[list[_Subject], Field(min_length=1, max_length=1)]
    predicate: _Predicate

    def check_names(self, digest: str) -> None:
        """Raise `RejectedUpload` unless the signed statement has a file of *digest*."""
        resources = self.predicate.resources
        joined = b"".join(bytes.fromhex(resource.digest) for resource in resources)
        if hashlib.sha256(joined).hexdigest() != self.subject[0].digest.sha256:
            raise _refused("contradicts itself: its files do not make its root digest")
        named = [f"sha256:{r.digest}" for r in resources if r.algorithm == "sha256"]
        if digest not in named:
            raise _refused(f"is over {', '.join(named[:3])}; the package is {digest}")


def _parse(model: type[M], text: bytes, problem: str) -> M:
    try:
        return model.model_validate_json(text)
    except ValidationError:
        raise _refused(problem) from None


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _refused("holds invalid base64") from None


def _has_signed(key: ec.EllipticCurvePublicKey, signature: bytes, payload: bytes) -> bool:
    try:
        key.verify(signature, _pae(payload), ec.ECDSA(HASHES[key.curve.name]))
    except InvalidSignature:
        return False
    return True


def _pae(payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding of *payload*, which is what gets signed."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _read_public(path: Path) -> ec.EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in HASHES:
        raise BadInput(str(path), f"is no public PEM key of {', '.join(HASHES)}")
    return key


def _private(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in HASHES:
        raise BadInput("key", f"is no private PEM key of {', '.join(HASHES)} without a password")
    return key


def _refused(problem: str) -> RejectedUpload:
    return RejectedUpload(Fault("signature", problem))
