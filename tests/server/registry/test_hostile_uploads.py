"""Uploads that are no packages, or worse: refused over HTTP, with nothing left behind."""

import gzip
import io
import json
import os
import pickle
import resource
import struct
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch
from safetensors.torch import save

from tests.support.serving import POSITIONS, Running, package
from tests.support.tiny_models import WIDTH

KIND = {"content-type": "application/octet-stream"}
URL = "/admin/v1/adapters/hostile?tenant=attacked"
GOOD = package(seed=1)
METADATA = {"galenic": GOOD.manifest.model_dump_json()}
U, V = torch.ones(POSITIONS, 1), torch.ones(1, WIDTH)


def put(running: Running, data: bytes, url: str = URL, kind: str = KIND["content-type"]) -> Any:
    return running.admin.put(url, content=data, headers={"content-type": kind})


def refused(running: Running, data: bytes) -> dict[str, str]:
    """The faults of a 422, after which nothing is there."""
    reply = put(running, data)
    assert 422 == reply.status_code, reply.text
    listed = running.admin.get("/admin/v1/adapters?tenant=attacked").json()["adapters"]
    assert "hostile" not in [one["name"] for one in listed]
    return {one["path"]: one["problem"] for one in reply.json()["error"]["faults"]}


def tensors(u: torch.Tensor = U, v: torch.Tensor = V, **more: torch.Tensor) -> bytes:
    return save({"u": u, "v": v, **more}, metadata=METADATA)


def file(header: bytes, rest: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + rest


class Touches:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.open, (self.path, os.O_CREAT | os.O_WRONLY)


class TestOtherFiles:
    def test_are_refused_and_nothing_in_them_runs(self, running: Running, tmp_path: Any):
        """
        Case 19: pickles of every protocol, a torch checkpoint, zip, tar, gzip; 422, or 415 by type.
        """
        mark = tmp_path / "ran"
        evil = Touches(str(mark))
        files = [pickle.dumps(evil, protocol=n) for n in range(pickle.HIGHEST_PROTOCOL + 1)]
        checkpoint, zipped, tarred = io.BytesIO(), io.BytesIO(), io.BytesIO()
        torch.save({"u": evil}, checkpoint)
        with zipfile.ZipFile(zipped, "w") as archive:
            archive.writestr("a.safetensors", GOOD.data)
        with tarfile.open(fileobj=tarred, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("../a.safetensors"))
        files += [one.getvalue() for one in (checkpoint, zipped, tarred)]
        files += [gzip.compress(GOOD.data)]
        for data in files:
            assert set(refused(running, data)) <= {"package", "header"}
        kinds = ("application/zip", "application/x-tar", "application/json", "multipart/form-data")
        assert [415] * 4 == [put(running, GOOD.data, kind=kind).status_code for kind in kinds]
        assert not mark.exists()

    def test_peft_configs_touch_neither_file_nor_network(self, running: Running, tmp_path: Any):
        """
        Case 27: what a PEFT checkpoint's configuration may name is not a package, and is not read.
        """
        with listening() as (url, heard):
            secret = tmp_path / "secret"
            secret.write_text("x")
            config = {
                "peft_type": "MULTITASK_PROMPT_TUNING",
                "tokenizer_name_or_path": url,
                "base_model_name_or_path": url,
                "auto_mapping": {"base_model_class": "system", "parent_library": "os"},
                "prompt_tuning_init_state_dict_path": str(secret),
            }
            accessed = secret.stat().st_atime_ns
            assert refused(running, json.dumps(config).encode())
            assert refused(running, file(json.dumps(config).encode()))
            carried = METADATA | {"peft": json.dumps(config)}
            assert {"metadata.peft"} == set(
                refused(running, save({"u": U, "v": V}, metadata=carried))
            )
            assert (accessed, []) == (secret.stat().st_atime_ns, heard)


class TestTensors:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_that_are_not_finite_are_refused(self, running: Running, value: float):
        """
        Case 20.
        """
        assert {"tensors.u"} == set(refused(running, tensors(u=U * value)))
        broken = V.clone()
        broken[0, -1] = value
        assert {"tensors.v"} == set(refused(running, tensors(v=broken)))

    def test_with_twins_zero_dimensions_or_company_are_refused(self, running: Running):
        """
        Case 23.
        """
        text = GOOD.data[8 : 8 + int.from_bytes(GOOD.data[:8], "little")]
        twins = text.replace(b'{"', b'{"u":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},"', 1)
        assert "repeated" in str(refused(running, file(twins, bytes(64))))
        assert any("u.shape" in path for path in refused(running, tensors(u=torch.ones(8, 0))))
        assert {"tensors.w"} == set(refused(running, tensors(w=torch.ones(1, 1))))

    @pytest.mark.parametrize(
        ("change", "theirs", "ours"),
        [
            ({"metaprompt": "sha256:" + "0" * 64}, "sha256:000", "sha256:"),
            ({"backbone": {"name": "Another-8B", "revision": "1"}}, "Another-8B@1", "tiny-llama@0"),
            ({"template_version": 7}, "7", "1"),
        ],
    )
    def test_made_for_another_server_are_refused_with_both_values(
        self, running: Running, change: dict[str, Any], theirs: str, ours: str
    ):
        """
        Case 24: backbone, metaprompt and template.
        """
        (field,) = change
        faults = refused(running, package(**change).data)
        assert theirs in faults[f"manifest.{field}"]
        assert ours in faults[f"manifest.{field}"].split("this server has")[1]

    def test_of_other_sizes_are_refused_with_both_values(self, running: Running):
        """
        Case 24: positions, width and dtype, against the manifest and against this server.
        """
        assert (
            "(9, 1), manifest says (8, 1)"
            in refused(running, tensors(u=torch.ones(9, 1)))["tensors.u"]
        )
        assert (
            "(1, 65), manifest says (1, 64)"
            in refused(running, tensors(v=torch.ones(1, 65)))["tensors.v"]
        )
        half = refused(running, tensors(U.half(), V.half()))
        assert "float16, manifest says float32" in half["tensors.u"]
        manifest = json.loads(METADATA["galenic"])
        wide = manifest | {"shapes": manifest["shapes"] | {"v": [1, 65]}}
        data = save({"u": U, "v": torch.ones(1, 65)}, metadata={"galenic": json.dumps(wide)})
        told = refused(running, data)
        assert "has shape (1, 65), this backbone takes (any, 64)" in told["tensors.v"]

    def test_of_huge_values_or_products_are_refused(self, running: Running):
        """
        Cases 25 and 26: norms; and halves that look harmless but overflow together.
        """
        assert "at most" in refused(running, tensors(u=U * 1e9))["tensors.u"]
        assert "u·v" in refused(running, tensors(u=U * 5e3, v=V * 5e3))["tensors"]
        assert refused(running, tensors(u=U * 3e38, v=V * 3e38))


class TestHeaders:
    def test_of_any_announced_size_cost_nothing(self, running: Running):
        """
        Cases 21 and 22: 90 MB, all of 64 bits, and half a million empty tensors; RSS stays.
        """
        empty = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
        files = [
            file(b"{" + b",".join(empty % i for i in range(n)) + b"}") for n in (60_000, 500_000)
        ]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for size in (90 * 10**6, 2**63, 2**64 - 1):
            assert "at most" in refused(running, struct.pack("<Q", size) + b"{")["header"]
        assert "at most" in refused(running, files[0])["header"]
        assert 413 == put(running, files[1]).status_code
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [
            "..",
            "%2e%2e%2fetc",
            "a%2fb",
            "a%00b",
            "%00",
            "NER",
            "nеr",  # a Cyrillic е
            "ner\u200b",
            "ｎｅｒ",
            "a" * 65,
            "a" * 10_240,
            "-a",
            "a b",
            "%ff",
            "%ed%a0%80",
        ],
    )
    def test_that_are_none_are_refused(self, running: Running, name: str):
        """
        Case 28: paths, NUL, look-alikes and 10 KB, as name, as alias, as tenant: 4xx, and no trace.
        """
        urls = (
            f"/admin/v1/adapters/{name}?tenant=attacked",
            f"/admin/v1/adapters/{name}/1?tenant=attacked",
            f"/admin/v1/adapters/fine?tenant={name}",
        )
        told = {put(running, GOOD.data, url).status_code for url in urls}
        body = {"adapter": "fine@1"}
        told.add(running.admin.put(f"/admin/v1/aliases/{name}", json=body).status_code)
        told.add(running.admin.put(f"/admin/v1/tenants/{name}", json={}).status_code)

        assert told <= {404, 405, 422, 431, 400, 414}, told


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """An address that somebody may be lured to, and what it heard."""
    heard: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.path)
            self.send_response(302)
            self.send_header("location", "http://169.254.169.254/")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/a.safetensors", heard
        finally:
            server.shutdown()
            thread.join()


class TestAddresses:
    def test_are_never_fetched(self, running: Running):
        """
        Case 29: there is no upload by URL; wherever one may be put, nobody goes there.
        """
        with listening() as (url, heard):
            for field in ("url", "source", "path", "package"):
                put(running, GOOD.data, f"{URL.replace('hostile', 'fetched')}&{field}={url}")
                put(running, json.dumps({field: url}).encode(), kind="application/json")
                put(running, json.dumps({field: url}).encode())
            load = {"lora_name": "x", "lora_path": url}
            assert 400 == running.admin.post("/v1/load_lora_adapter", json=load).status_code
            token = f"eyJhbGciOiJSUzI1NiIsImprdSI6Int9In0.{url}.x"
            running.anyone.get("/v1/models", headers={"authorization": f"Bearer {token}"})
            assert [] == heard
