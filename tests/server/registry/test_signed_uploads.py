"""A server that takes signed packages only."""

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from galenic_adapters.errors import BadInput
from galenic_adapters.package.signature import sign
from galenic_server.settings import Settings
from tests.support.serving import Running, make_parts, package, serving

KIND = {"content-type": "application/octet-stream"}
TRUSTED, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
GOOD = package(seed=1).data


@pytest.fixture(scope="module")
def strict(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("strict")
    keys = home / "trusted"
    keys.mkdir()
    public = TRUSTED.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (keys / "pharmacy.pem").write_bytes(public)
    parts = make_parts(backbone, home, signature_policy="required", signing_keys=keys)
    with serving(parts) as server:
        yield server


def bundle(data: bytes = GOOD, key: ec.EllipticCurvePrivateKey = TRUSTED) -> bytes:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return sign(data, "a.safetensors", pem).encode()


def put(server: Running, signature: bytes | None, data: bytes = GOOD) -> httpx.Response:
    text = base64.b64encode(signature).decode() if signature is not None else None
    headers = KIND | ({"x-galenic-signature": text} if text is not None else {})
    return server.admin.put("/admin/v1/adapters/signed?tenant=ward", content=data, headers=headers)


def versions(server: Running) -> list[str]:
    listed = server.admin.get("/admin/v1/adapters?tenant=ward").json()["adapters"]
    return [f"{one['name']}@{one['version']} {one['digest']}" for one in listed]


class TestASignedUpload:
    def test_is_taken_and_told_what_was_verified(self, strict: Running):
        """
        Now, later, and in an archive, which is checked by the same policy where it arrives.
        """
        made = put(strict, bundle()).json()
        later = strict.admin.get("/admin/v1/adapters/signed/1?tenant=ward").json()
        archive = strict.admin.get("/admin/v1/tenants/ward/archive").content
        brought = strict.admin.put("/admin/v1/tenants/other/archive", content=archive)
        there = strict.admin.get("/admin/v1/adapters/signed/1?tenant=other").json()
        stripped = archive.replace(b'"signature"', b'"signatur"')
        refused = strict.admin.put("/admin/v1/tenants/third/archive", content=stripped)

        verified = {"policy": "required", "is_verified": True, "signed_by": "pharmacy"}
        assert [verified] * 3 == [one["signature"] for one in (made, later, there)]
        assert (200, 422) == (brought.status_code, refused.status_code)

    @pytest.mark.parametrize(
        "signature",
        [
            None,
            bundle(key=OTHER),
            bundle(package(seed=2).data),
            b"{}",
            b"",
        ],
        ids=["none", "stranger", "another package", "no bundle", "empty"],
    )
    def test_of_any_other_kind_is_refused_and_moves_nothing(
        self, strict: Running, signature: bytes | None
    ):
        """
        Case 30: 422, no version more, and the alias where it was.
        """
        put(strict, bundle())
        url = "/admin/v1/aliases/live?tenant=ward"
        headers = {"if-match": "*"} if strict.admin.get(url).is_success else {}
        strict.admin.put(url, json={"adapter": "signed@1"}, headers=headers).raise_for_status()
        before = versions(strict)
        reply = put(strict, signature, package(seed=3).data)

        assert 422 == reply.status_code
        assert ["signature"] == [one["path"] for one in reply.json()["error"]["faults"]]
        assert before == versions(strict)
        assert "signed@1" == strict.admin.get(url).json()["adapter"]

    def test_tried_out_tells_of_its_signature_too(self, strict: Running):
        """
        Beside all other faults.
        """
        bad = package(template_version=7).data
        url = "/admin/v1/adapters/signed/try?tenant=ward"
        told = strict.admin.post(url, content=bad, headers=KIND).json()

        assert {"manifest.template_version", "signature"} == {
            fault["path"] for fault in told["faults"]
        }


class TestAServerWithoutKeys:
    def test_does_not_start(self, tmp_path: Path):
        """
        A policy that nobody could meet, or a file that is no key, is said at once.
        """
        with pytest.raises(ValueError, match="GALENIC_SIGNING_KEYS"):
            Settings(home=tmp_path, signature_policy="required")
        with pytest.raises(BadInput, match="holds no public key"):
            _ = Settings(
                home=tmp_path, signature_policy="optional", signing_keys=tmp_path
            ).signatures
