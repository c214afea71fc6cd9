"""
Signatures in the form of OpenSSF Model Signing.

`model_signing/` holds what its own tool, 1.1.1, has signed: ``model_signing sign key FOLDER``.
"""

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from galenic_adapters.errors import BadInput, RejectedUpload
from galenic_adapters.package.file import package_digest
from galenic_adapters.package.signature import Policy, Signatures, Use, read_keys, sign
from tests.support.packages import make_package

THEIRS = Path(__file__).parent / "model_signing"
DATA = make_package().data
DIGEST = package_digest(DATA)


def pem(key: Any) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


OURS = ec.generate_private_key(ec.SECP256R1())
STRANGERS = ec.generate_private_key(ec.SECP256R1())
REQUIRED = Signatures(Policy.REQUIRED, {"pharmacy": OURS.public_key()})
NOW = datetime(2026, 5, 1, tzinfo=UTC)
USE = Use("north", "discharge", NOW)
BUNDLE = sign(DATA, "a.safetensors", pem(OURS))


def problem(bundle: str | bytes | None, digest: str = DIGEST, by: Signatures = REQUIRED) -> str:
    sent = bundle.encode() if isinstance(bundle, str) else bundle
    with pytest.raises(RejectedUpload) as caught:
        by.check(digest, sent, USE)
    (fault,) = caught.value.faults
    assert "signature" == fault.path
    return fault.problem


def resigned(change: Any, key: ec.EllipticCurvePrivateKey = OURS) -> str:
    """The bundle around a changed statement, signed well."""
    from galenic_adapters.package import signature as signatures

    bundle = json.loads(BUNDLE)
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    payload = json.dumps(statement).encode()
    signed = key.sign(signatures._pae(payload), ec.ECDSA(signatures.HASHES["secp256r1"]))
    bundle["dsseEnvelope"] |= {
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"sig": base64.b64encode(signed).decode()}],
    }
    return json.dumps(bundle)


class TestASignature:
    def test_of_the_models_own_tool_is_good(self) -> None:
        """Nothing of it is ours: its key, its command, its bundle."""
        data = (THEIRS / "package.safetensors").read_bytes()
        trusting = Signatures(Policy.REQUIRED, read_keys(THEIRS))
        signed = trusting.check(package_digest(data), (THEIRS / "model.sig").read_bytes(), USE)

        assert signed is not None
        assert "pharmacy" == signed.by

    @pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
    def test_of_ours_is_good(self, curve: Any) -> None:
        key = ec.generate_private_key(curve())
        trusting = Signatures(
            Policy.OPTIONAL, {"other": OURS.public_key(), "own": key.public_key()}
        )
        signed = trusting.check(DIGEST, sign(DATA, "a", pem(key)).encode(), USE)

        assert signed is not None
        assert "own" == signed.by

    def test_of_another_package_is_refused(self) -> None:
        """
        Case 30: both digests are named.
        """
        said = problem(BUNDLE, package_digest(make_package(2).data))
        assert DIGEST in said
        assert package_digest(make_package(2).data) in said

    def test_of_a_key_that_is_not_trusted_is_refused(self) -> None:
        """
        Case 30: also where it claims to be of one that is.
        """
        forged = json.loads(sign(DATA, "a", pem(STRANGERS)))
        forged["verificationMaterial"] = json.loads(BUNDLE)["verificationMaterial"]
        for bundle in (sign(DATA, "a", pem(STRANGERS)), json.dumps(forged)):
            assert "no key that this server trusts" in problem(bundle)

    def test_that_was_changed_is_refused(self) -> None:
        """
        Case 30: any byte of the statement, of its type, of the signature.
        """
        for field in ("payload", "signatures"):
            bundle = json.loads(BUNDLE)
            envelope = bundle["dsseEnvelope"]
            text = envelope["payload"] if field == "payload" else envelope["signatures"][0]["sig"]
            changed = text[:40] + ("A" if text[40] != "A" else "B") + text[41:]
            if field == "payload":
                envelope["payload"] = changed
            else:
                envelope["signatures"][0]["sig"] = changed
            assert "no key that this server trusts" in problem(json.dumps(bundle))

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), "no statement"),
            (lambda s: s.update(_type="x"), "no statement"),
            (lambda s: s["predicate"].update(resources=[]), "no statement"),
            (lambda s: s["subject"][0]["digest"].update(sha256="0" * 64), "contradicts itself"),
            (lambda s: s["predicate"]["resources"][0].update(digest="0" * 64), "contradicts"),
            (lambda s: s["predicate"]["resources"][0].update(algorithm="blake2b"), "is over ;"),
        ],
    )
    def test_of_another_statement_is_refused(self, change: Any, said: str) -> None:
        """A trusted key has signed it, but it states something else."""
        assert said in problem(resigned(change))

    @pytest.mark.parametrize(
        "bundle",
        [
            b"",
            b"{}",
            b"[" * 10_000,
            b"\xff\xfe",
            b'{"dsseEnvelope": {"payload": "", "payloadType": "x", "signatures": []}}',
            BUNDLE.replace('"payload": "', '"payload": "é'),
            BUNDLE.replace("application/vnd.in-toto+json", "text/plain"),
            "x" * (33 << 10),
        ],
    )
    def test_that_is_none_is_refused(self, bundle: str | bytes) -> None:
        assert problem(bundle)


class TestThePolicy:
    def test_says_whether_one_has_to_come(self) -> None:
        """None looks at nothing, optional at what comes, required wants one."""
        keys = {"pharmacy": OURS.public_key()}
        none, optional = Signatures(), Signatures(Policy.OPTIONAL, keys)

        assert none.check(DIGEST, b"nonsense", USE) is None
        assert optional.check(DIGEST, None, USE) is None
        assert problem(b"nonsense", by=optional)
        assert "missing" in problem(None)


def bound(use: Use) -> str:
    return sign(DATA, "a.safetensors", pem(OURS), use)


class TestAUse:
    """A signature that says what for is good for nothing else, by every policy."""

    @pytest.mark.parametrize(
        ("use", "said"),
        [
            (Use("south", "discharge", NOW), "for south/discharge, not for north/discharge"),
            (Use("north", "nli", NOW), "for north/nli, not for north/discharge"),
            (Use("north", "discharge", NOW - timedelta(days=31)), "good for 30 days"),
            (Use("north", "discharge", NOW + timedelta(days=31)), "good for 30 days"),
        ],
    )
    def test_is_the_only_one(self, use: Use, said: str) -> None:
        """Not another tenant's, nor another adapter's, and no old version as the newest."""
        assert said in problem(bound(use))

    def test_is_taken_where_it_is_meant(self) -> None:
        """For a while; in an archive for ever."""
        recent, old = (Use("north", "discharge", NOW - timedelta(days=days)) for days in (29, 900))

        assert REQUIRED.check(DIGEST, bound(recent).encode(), USE)
        assert REQUIRED.check(DIGEST, bound(old).encode(), USE, is_late=True)

    def test_can_be_required(self) -> None:
        """Then one that names none, as OpenSSF's tools make it, is not enough."""
        strict = Signatures(Policy.BOUND, REQUIRED.keys)

        assert "names no tenant" in problem(BUNDLE, by=strict)
        assert "missing" in problem(None, by=strict)
        assert strict.check(DIGEST, bound(USE).encode(), USE)

    def test_is_read_from_the_command(self) -> None:
        """TENANT/NAME; anything else is refused before a key is read."""
        assert "north/discharge" == str(Use.of("north/discharge"))
        with pytest.raises(BadInput):
            Use.of("discharge")


class TestKeys:
    def test_of_other_kinds_are_refused_by_name(self, tmp_path: Path) -> None:
        """They are refused at the start, not when the first package comes."""
        for kind in (ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)):
            (tmp_path / "wrong.pem").write_bytes(public_pem(kind))
            with pytest.raises(BadInput, match=r"wrong\.pem"):
                read_keys(tmp_path)
            with pytest.raises(BadInput, match="key"):
                sign(DATA, "a", pem(kind))
        (tmp_path / "wrong.pem").write_bytes(b"-----BEGIN")
        with pytest.raises(BadInput):
            read_keys(tmp_path)

    def test_are_named_for_their_files(self, tmp_path: Path) -> None:
        (tmp_path / "pharmacy-2026.pem").write_bytes(public_pem(OURS))
        (tmp_path / "notes.txt").write_text("not a key")
        assert ["pharmacy-2026"] == list(read_keys(tmp_path))
        digest = hashlib.sha256(public_pem(OURS)).hexdigest()
        assert digest == json.loads(BUNDLE)["verificationMaterial"]["publicKey"]["hint"]
