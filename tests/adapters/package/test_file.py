"""
Uploads are a stranger's bytes: whatever they are, they become a package or a list of faults.

Dimension key:  P prompt positions   D model width   R rank
"""

import gzip
import io
import json
import pickle
import random
import resource
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from galenic_adapters.errors import RejectedUpload
from galenic_adapters.factor import Factor, Metaprompt
from galenic_adapters.package.file import (
    MAX_HEADER_BYTES,
    Package,
    inspect,
    read_metaprompt,
    write_metaprompt,
)
from galenic_adapters.package.manifest import BackboneId
from tests.support.packages import (
    BACKBONE,
    D,
    P,
    make_factor,
    make_fit,
    make_manifest,
    make_metaprompt,
    make_package,
)

GOOD = make_package()
U, V = make_factor().u_PR, make_factor().v_RD


def file(header: Any, tensors: bytes = b"") -> bytes:
    """A safetensors file of a header as JSON, or as the bytes given."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header as JSON, and the tensors' bytes."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


HEADER, TENSORS = parts(GOOD.data)
MANIFEST = json.loads(HEADER["__metadata__"]["galenic"])


def with_manifest(**changes: Any) -> bytes:
    return file(HEADER | {"__metadata__": {"galenic": json.dumps(MANIFEST | changes)}}, TENSORS)


def with_tensors(**tensors: torch.Tensor) -> bytes:
    """A well-made file of these tensors beside the good manifest."""
    return save(tensors, metadata=HEADER["__metadata__"])


def with_entry(name: str, **changes: Any) -> bytes:
    return file(HEADER | {name: HEADER[name] | changes}, TENSORS)


def faults_of(data: bytes) -> dict[str, str]:
    with pytest.raises(RejectedUpload) as caught:
        Package.read(data)
    assert str(caught.value).isprintable()
    return {fault.path: fault.problem for fault in caught.value.faults}


class TestRoundTrip:
    @pytest.mark.parametrize("rank", [1, 4, 16])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_reads_what_was_written(self, rank: int, dtype: str) -> None:
        """Every bit of the factor and every field of the manifest come back."""
        factor = make_factor(rank=rank, dtype=getattr(torch, dtype))
        manifest = make_manifest(shapes=factor.shapes, dtype=dtype)

        package = Package.read(Package.write(manifest, factor).data)

        assert manifest == package.manifest
        assert torch.equal(factor.u_PR, package.factor.u_PR)
        assert torch.equal(factor.v_RD, package.factor.v_RD)

    def test_same_input_same_digest(self) -> None:
        """However the tensors lie in memory, and whether they still learn."""
        learning = Factor(U.T.contiguous().T.requires_grad_(), V.clone())
        assert GOOD.digest == Package.write(make_manifest(), learning).digest
        assert GOOD.digest != make_package(1).digest
        assert GOOD.digest != make_package(description="Another.").digest

    def test_rank_one_is_a_few_kilobytes(self) -> None:
        """At the default backbone's size: 64 positions, width 576, 16 bits."""
        factor = Factor(torch.ones(64, 1).bfloat16(), torch.ones(1, 576).bfloat16())
        manifest = make_manifest(shapes={"u": (64, 1), "v": (1, 576)}, dtype="bfloat16")
        assert len(Package.write(manifest, factor).data) < 2_500

    def test_does_not_write_what_it_would_not_read(self) -> None:
        with pytest.raises(RejectedUpload, match="manifest says"):
            Package.write(make_manifest(shapes={"u": (P, 2), "v": (2, D)}), make_factor(rank=1))


class TestWhatIsNoSafetensors:
    def pickled(self) -> bytes:
        buffer = io.BytesIO()
        torch.save({"u": U, "v": V}, buffer)
        return buffer.getvalue()

    def zipped(self) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("adapter.safetensors", GOOD.data)
        return buffer.getvalue()

    def tarred(self) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("adapter.safetensors"))
        return buffer.getvalue()

    def test_is_named_for_what_it_is(self) -> None:
        for data, kind in (
            (self.pickled(), "torch checkpoint"),
            (self.zipped(), "zip archive"),
            (self.tarred(), "tar archive"),
            (gzip.compress(GOOD.data), "gzip"),
            (b"GGUF" + bytes(100), "GGUF"),
        ):
            assert kind in faults_of(data)["package"]

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_no_pickle_runs(self, protocol: int) -> None:
        """Case 19: a pickle that would end this very process is refused like any other file."""
        assert faults_of(pickle.dumps(Exits(), protocol=protocol))

    @pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100])
    def test_cut_short(self, size: int) -> None:
        assert "not safetensors" in faults_of(GOOD.data[:size])["package"]

    def test_a_header_of_any_length_is_no_magic(self) -> None:
        """Lengths whose bytes spell "PK" or a pickle's start are lengths all the same."""
        text = json.dumps(HEADER).encode()
        for size in (0x0280, 0x0480, int.from_bytes(b"PK", "little"), 0x8B1F):
            assert GOOD.manifest == Package.read(file(text.ljust(size), TENSORS)).manifest


class Exits:
    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        import os

        return os._exit, (1,)


class TestSizes:
    def test_too_large(self) -> None:
        assert "8388609 bytes, at most 8388608" == faults_of(bytes(8 * 2**20 + 1))["package"]

    def test_limit_can_be_set(self) -> None:
        with pytest.raises(RejectedUpload, match=f"{len(GOOD.data)} bytes, at most 100"):
            Package.read(GOOD.data, max_bytes=100)

    def test_huge_header_is_refused_before_parsing(self) -> None:
        """Case 21: a header that says 90 MB, or all there is in 64 bits, costs nothing."""
        for size in (90 * 10**6, 2**63, 2**64 - 1, MAX_HEADER_BYTES + 1):
            assert "at most 65536" in faults_of(struct.pack("<Q", size) + b"{")["header"]

    def test_half_a_million_empty_tensors(self) -> None:
        """Case 22: refused in no time and no space."""
        empty = '"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
        data = file(("{" + ",".join(empty % i for i in range(500_000)) + "}").encode())
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()

        with pytest.raises(RejectedUpload, match="at most"):
            Package.read(data, max_bytes=len(data))

        assert time.perf_counter() - began < 0.1
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024

    def test_a_small_file_of_a_huge_product(self) -> None:
        """Two thin tensors whose product would take gigabytes are checked without making it."""
        u_PR, v_RD = torch.ones(2**14, 1).half(), torch.ones(1, 2**16).half()
        manifest = make_manifest(shapes={"u": (2**14, 1), "v": (1, 2**16)}, dtype="float16")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        Package.write(manifest, Factor(u_PR, v_RD))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


class TestHeader:
    @pytest.mark.parametrize(
        "text",
        [
            b"{",
            b"{]",
            b"{}x",
            b"{" + b"\xff" * 10 + b"}",
            b"{'u': 1}",
            b'{"u": ' + b"9" * 5000 + b"}",
            b'{"u": ' + b"[" * 60_000 + b"}",
            b'{"u": ' * 10_000,
            b'{"u": 1, "u": 2}',
            b'{"\\ud800": 1}',
            b'{"u": NaN}',
            b'{"u": null, "v": [], "__metadata__": 3}',
            b'{"__metadata__": {"galenic": 3}}',
            b'{"__metadata__": {"galenic": "\\ud800"}}',
            b'{"__metadata__": []}',
        ],
    )
    def test_what_is_no_header(self, text: bytes) -> None:
        assert faults_of(file(text))

    @pytest.mark.parametrize("where", ["header", "entry", "manifest"])
    def test_keys_stand_once(self, where: str) -> None:
        """Case 23: parsers disagree about which twin counts, so there are no twins at any depth."""
        manifest = json.dumps(MANIFEST).replace('"task"', '"name": "x", "task"')
        text = json.dumps(HEADER)
        twins = {
            "header": text.replace("{", '{"u": 1,', 1),
            "entry": text.replace('"dtype": "F32"', '"dtype": "F32", "dtype": "F32"', 1),
            "manifest": json.dumps(HEADER | {"__metadata__": {"galenic": manifest}}),
        }
        assert "repeated" in str(faults_of(file(twins[where].encode(), TENSORS)))

    def test_manifest_that_is_a_bomb(self) -> None:
        bomb = HEADER | {"__metadata__": {"galenic": "[" * 60_000}}
        assert "deep" in faults_of(file(bomb, TENSORS))["manifest"]

    def test_no_manifest(self) -> None:
        assert {"metadata"} == set(faults_of(save({"u": U, "v": V})))
        assert "metadata.galenic" in faults_of(save({"u": U, "v": V}, metadata={"format": "pt"}))

    def test_nothing_else_in_the_metadata(self) -> None:
        metadata = HEADER["__metadata__"] | {"auto_map": "evil.py"}
        assert {"metadata.auto_map"} == set(faults_of(file(HEADER | {"__metadata__": metadata})))


class TestTensors:
    def test_exactly_u_and_v(self) -> None:
        assert {"tensors.v"} == set(faults_of(with_tensors(u=U)))
        assert {"tensors.w"} == set(faults_of(with_tensors(u=U, v=V, w=torch.ones(1, 1))))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.bool, torch.complex64])
    def test_other_dtypes(self, dtype: torch.dtype) -> None:
        assert {"tensors.u.dtype"} == set(faults_of(with_tensors(u=U.to(dtype), v=V)))

    @pytest.mark.parametrize(
        "shape", [[0, 1], [P, 0], [P], [P, 1, 1, 1], [-1, -4], [True, 4], [1.0, 4]]
    )
    def test_shapes_that_are_no_matrix(self, shape: list[Any]) -> None:
        paths = faults_of(with_entry("u", shape=shape))
        assert all(path.startswith("tensors.u.shape") for path in paths)

    def test_shapes_and_dtypes_against_the_manifest(self) -> None:
        """Both values are named."""
        assert (
            "(4, 1), manifest says (4, 3)"
            in faults_of(with_manifest(shapes={"u": (P, 3), "v": (3, D)}))["tensors.u"]
        )
        assert (
            "(1, 8), manifest says (1, 9)"
            in faults_of(with_manifest(shapes={"u": (P, 1), "v": (1, 9)}))["tensors.v"]
        )
        problem = faults_of(with_manifest(dtype="bfloat16"))["tensors.u"]
        assert "is float32, manifest says bfloat16" == problem

    @pytest.mark.parametrize(
        "changes",
        [
            {"data_offsets": [0, 8]},
            {"data_offsets": [16, 0]},
            {"data_offsets": [4, 20]},
            {"data_offsets": [0, 2**40]},
            {"shape": [2**31, 2**31]},
        ],
    )
    def test_offsets_that_do_not_fill_the_file(self, changes: dict[str, Any]) -> None:
        """Neither holes, nor overlaps, nor more than is there."""
        for name in ("u", "v"):
            assert any(p.startswith("tensors") for p in faults_of(with_entry(name, **changes)))

    def test_bytes_left_over(self) -> None:
        """Nothing hides behind the tensors."""
        assert {"tensors"} == set(faults_of(GOOD.data + b"\0"))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_not_finite(self, value: float) -> None:
        """Case 20."""
        broken = U.clone()
        broken[1, 0] = value
        assert {"tensors.u": "holds NaN or infinity"} == faults_of(with_tensors(u=broken, v=V))

    def test_huge_values(self) -> None:
        """Case 25."""
        assert "at most 10000" in faults_of(with_tensors(u=U * 1e6, v=V))["tensors.u"]

    def test_product_that_overflows(self) -> None:
        """Case 26: either half looks harmless; their product is what the prompt is scaled by."""
        faults = faults_of(with_tensors(u=torch.full_like(U, 5e3), v=torch.full_like(V, 5e3)))
        assert {"tensors": "u·v may reach 2.5e+07, at most 10000"} == faults

    def test_product_past_every_float(self) -> None:
        faults = faults_of(with_tensors(u=torch.full_like(U, 3e38), v=torch.full_like(V, 3e38)))
        assert {"tensors.u", "tensors.v", "tensors"} == set(faults)

    def test_tells_all_faults_at_once(self) -> None:
        """A sender mends everything in one go."""
        metadata = {"galenic": json.dumps(MANIFEST | {"name": "../x", "licence": ""})}
        data = file(HEADER | {"__metadata__": metadata, "u": HEADER["u"] | {"dtype": "F64"}})
        assert {"manifest.name", "manifest.licence", "tensors.u.dtype"} == set(faults_of(data))

    def test_tells_no_more_than_fits_a_screen(self) -> None:
        data = file(HEADER | {f"extra{i}": {} for i in range(1000)}, TENSORS)
        assert 33 == len(str_faults := faults_of(data)), str_faults


class TestInspection:
    def test_tells_of_the_file_and_of_the_fit_at_once(self) -> None:
        """A manifest beside broken tensors is read, so what it does not fit can be told too."""
        found = inspect(file(HEADER | {"u": HEADER["u"] | {"dtype": "F64"}}, TENSORS))

        assert found.manifest is not None
        metaprompt = make_metaprompt(7)
        other = make_fit(metaprompts={metaprompt.digest: metaprompt})
        faults = [*found.faults, *other.misfits(found.manifest)]
        assert ["tensors.u.dtype", "manifest.metaprompt"] == [fault.path for fault in faults]

    def test_names_places_as_json_paths(self) -> None:
        """Items of lists are named by their number."""
        scores = [{"dataset": "a", "split": "b", "metric": "c", "value": 1, "num_examples": 0}]
        assert {"manifest.scores[0].num_examples"} == set(faults_of(with_manifest(scores=scores)))


def alone(tensors: dict[str, torch.Tensor], metaprompt: str | None = None) -> Package:
    """A package of these tensors, over no metaprompt unless one is named."""
    factor = Factor.of(tensors)
    return Package.write(make_manifest(metaprompt=metaprompt, shapes=factor.shapes), factor)


class TestForms:
    @pytest.mark.parametrize(
        "tensors",
        [
            {"rows": torch.randn(3, D)},
            {"keys": torch.randn(2, 3, D // 2), "values": torch.randn(2, 3, D // 2)},
            {"scales.o": torch.randn(2, D), "scales.f": torch.randn(2, 2 * D)},
            {"rows": torch.randn(3, D), "scales.q": torch.randn(2, D)},
        ],
        ids=lambda tensors: "+".join(tensors),
    )
    def test_every_form_reads_as_it_was_written(self, tensors: dict[str, torch.Tensor]) -> None:
        """Factor, manifest and digest are the same, and it fits without a metaprompt."""
        package = alone(tensors)
        again = Package.read(package.data)
        trusted = Package.trusted(package.data)

        assert package.digest == again.digest == trusted.digest
        assert package.manifest == again.manifest == trusted.manifest
        for read in (again, trusted):
            assert all(torch.equal(one, read.factor.tensors[name]) for name, one in tensors.items())
        make_fit().check(again)

    def test_a_package_of_the_first_schema_still_reads(self) -> None:
        """Written by release 0.1.0, it has the same digest and the same factor."""
        old = {name: value for name, value in MANIFEST.items() if name != "shapes"}
        old |= {"schema_version": 1, "rank": 1, "positions": P, "width": D}
        data = file(HEADER | {"__metadata__": {"galenic": json.dumps(old)}}, TENSORS)
        package = Package.read(data)

        assert {"u": (P, 1), "v": (1, D)} == package.manifest.shapes
        assert torch.equal(U, package.factor.tensors["u"])
        make_fit().check(package)

    def test_a_tensor_that_the_manifest_does_not_name(self) -> None:
        faults = faults_of(with_tensors(u=U, v=V, rows=torch.ones(P, D)))
        assert "is not in the manifest" in faults["tensors.rows"]


class TestFits:
    def fits(
        self, package: Package = GOOD, metaprompt: Metaprompt | None = None, **changes: Any
    ) -> None:
        if metaprompt:
            changes["metaprompts"] = {metaprompt.digest: metaprompt}
        make_fit(**({"max_rank": 16} | changes)).check(package)

    def problem(self, package: Package = GOOD, **changes: Any) -> str:
        with pytest.raises(RejectedUpload) as caught:
            self.fits(package, **changes)
        return str(caught.value)

    def test_fits(self) -> None:
        self.fits()

    def test_another_backbone(self) -> None:
        for other in ({"name": "Other"}, {"revision": "ffffffffffff"}):
            theirs = BackboneId(**(BACKBONE.model_dump() | other))
            said = self.problem(backbone=theirs)
            assert "manifest.backbone" in said
            assert str(BACKBONE) in said
            assert str(theirs) in said

    def test_another_metaprompt(self) -> None:
        """Case 24: both digests are named."""
        said = self.problem(metaprompt=make_metaprompt(7))
        assert "manifest.metaprompt" in said
        assert make_metaprompt().digest in said
        assert make_metaprompt(7).digest in said

    def test_another_size(self) -> None:
        """A product names its metaprompt, and both sizes are told where they disagree."""
        shapes = {"u": (P + 1, 1), "v": (1, D)}
        factor = Factor(torch.ones(P + 1, 1), torch.ones(1, D))
        said = self.problem(Package.write(make_manifest(shapes=shapes), factor))
        assert f"make a prompt of ({P + 1}, {D}), the metaprompt is ({P}, {D})" in said

    @pytest.mark.parametrize(
        ("name", "shape", "expected"),
        [
            ("scales.o", (3, D), f"has shape (3, {D}), this backbone takes (2, {D})"),
            ("scales.f", (2, D), f"has shape (2, {D}), this backbone takes (2, {2 * D})"),
            ("scales.k", (2, D), f"has shape (2, {D}), this backbone takes (2, {D // 2})"),
            ("rows", (3, D + 1), f"has shape (3, {D + 1}), this backbone takes (any, {D})"),
        ],
    )
    def test_another_backbones_layers_or_widths(
        self, name: str, shape: tuple[int, int], expected: str
    ) -> None:
        """The tensor is named, with its shape and the one that fits."""
        assert f"tensors.{name}: {expected}" in self.problem(alone({name: torch.ones(shape)}))

    def test_a_place_that_the_server_does_not_scale(self) -> None:
        """Its letter is named, and those that are scaled; what another server takes is no fault."""
        package = alone({"scales.o": torch.ones(2, D), "scales.q": torch.ones(2, D)})
        self.fits(package)
        said = self.problem(package, places=("o", "f"))
        assert "tensors.scales.q: has no place: this server scales o, f; GALENIC_PLACES" in said
        assert "scales.o" not in said

    def test_a_place_of_the_metaprompt_that_the_server_does_not_scale(self) -> None:
        """An adapter on that metaprompt scales there too, so it is refused."""
        shared = Metaprompt(make_metaprompt().rows_PD, {"q": torch.ones(2, D)})
        package = alone({"scales.o": torch.ones(2, D)}, metaprompt=shared.digest)
        self.fits(package, shared)
        said = self.problem(package, metaprompt=shared, places=("o", "f"))
        assert "metaprompt.scales.q: has no place: this server scales o, f; GALENIC_PLACES" in said

    def test_a_deep_prompt_for_other_heads(self) -> None:
        """Keys and values are as wide as all key heads together."""
        keys = torch.ones(2, 3, D)
        said = self.problem(alone({"keys": keys, "values": keys.clone()}))
        assert (
            f"tensors.keys: has shape (2, 3, {D}), this backbone takes (2, any, {D // 2})" in said
        )

    def test_a_product_without_a_metaprompt(self) -> None:
        """A product scales rows that must come from somewhere."""
        said = self.problem(Package.write(make_manifest(metaprompt=None), make_factor()))
        assert "manifest.metaprompt: is none, and u and v scale a metaprompt's rows" in said

    def test_scales_that_overflow_beside_the_metaprompts_name_the_layer(self) -> None:
        """Each is within bounds alone; their product is not, in the second layer."""
        shared, own = torch.ones(2, D), torch.ones(2, D)
        shared[1, 3], own[1, 3] = 9e3, 9e3
        metaprompt = Metaprompt(scales={"o": shared})
        package = alone({"scales.o": own}, metaprompt=metaprompt.digest)
        said = self.problem(package, metaprompt=metaprompt)
        assert "tensors.scales.o: reach 8.1e+07 in layer 1, at most 10000" in said

    def test_higher_rank_than_a_slot_holds(self) -> None:
        self.fits(make_package(rank=4), max_rank=4)
        assert "manifest.rank: is 5, at most 4" in self.problem(make_package(rank=5), max_rank=4)

    def test_another_template(self) -> None:
        """Its scores were measured on other words than this server would say."""
        said = self.problem(make_package(template_version=99))
        assert "manifest.template_version: is 99, this server has 1" in said

    def test_prompt_that_would_overflow(self) -> None:
        """A scale within bounds over a large metaprompt: the row it would make is checked."""
        large = Metaprompt(torch.full((P, D), 100.0))
        factor = Factor(torch.full((P, 1), 90.0), torch.full((1, D), 90.0))
        package = Package.write(make_manifest(metaprompt=large.digest), factor)
        assert "prompt row of norm" in self.problem(package, metaprompt=large)


class TestMetapromptFile:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_round_trip(self, dtype: torch.dtype) -> None:
        rows_PD = make_metaprompt().rows_PD.to(dtype)
        read = read_metaprompt(write_metaprompt(Metaprompt(rows_PD)))
        assert torch.equal(rows_PD, read.rows_PD)
        assert Metaprompt(rows_PD).digest == read.digest

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            GOOD.data,
            save({"metaprompt": torch.ones(3)}),
            save({"metaprompt": torch.full((2, 2), float("nan"))}),
            save({"metaprompt": torch.ones(2, 2)}) + b"\0",
        ],
    )
    def test_refuses(self, data: bytes) -> None:
        with pytest.raises(RejectedUpload):
            read_metaprompt(data)


IS_FULL = settings.default.max_examples > 1000
"""`pytest --hypothesis-profile=full tests/adapters/package/test_file.py`: minutes, not seconds."""


class Mutator:
    """Files of a seed, each a few steps away from a good one."""

    WORDS = (
        b"\0",
        b"\xff" * 8,
        b"{",
        b"}",
        b"[",
        b'"',
        b"1e999",
        b"NaN",
        b"null",
        b"-1",
        b"9" * 30,
    )

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.goods = [make_package(i, rank=i + 1).data for i in range(4)]
        self.steps = (self.flip, self.cut, self.insert, self.repeat, self.swap, self.lie)

    def file(self) -> bytes:
        data = bytearray(self.random.choice(self.goods))
        for _ in range(self.random.randint(1, 4)):
            self.random.choice(self.steps)(data)
        return bytes(data)

    def place(self, data: bytearray) -> int:
        return self.random.randrange(len(data) + 1)

    def flip(self, data: bytearray) -> None:
        for _ in range(self.random.randint(1, 8) if data else 0):
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)

    def cut(self, data: bytearray) -> None:
        del data[self.place(data) : self.place(data)]

    def insert(self, data: bytearray) -> None:
        at = self.place(data)
        data[at:at] = self.random.choice(self.WORDS)

    def repeat(self, data: bytearray) -> None:
        at = self.place(data)
        data[at:at] = data[at : at + self.random.randrange(200)]

    def swap(self, data: bytearray) -> None:
        other = self.random.choice(self.goods)
        at, size = self.place(data), self.random.randrange(300)
        data[at : at + size] = other[at : at + size]

    def lie(self, data: bytearray) -> None:
        """About the header's length."""
        data[:8] = struct.pack("<Q", self.random.choice((0, 1, 2**20, 2**63, len(data))))


class TestMutatedFiles:
    def test_are_packages_or_rejected_and_memory_is_bounded(self) -> None:
        """
        Case 21 to 26 at large: 2,000 seeded mutations, or 100,000 in the full profile; no other
        exception, and the process grows by less than 50 MB.
        """
        mutator, refused = Mutator(seed=20261124), 0
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(100_000 if IS_FULL else 2_000):
            try:
                Package.read(mutator.file())
            except RejectedUpload as rejected:
                refused += 1
                assert str(rejected).isprintable()
        assert refused
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


class TestFuzz:
    """Whatever the bytes, it is a package or a `RejectedUpload`; nothing else ever escapes."""

    def survives(self, data: bytes) -> None:
        for read in (Package.read, read_metaprompt):
            assert "".join(self.faults(read, data)).isprintable()

    def faults(self, read: Callable[[bytes], object], data: bytes) -> list[str]:
        try:
            read(data)
        except RejectedUpload as refused:
            return [str(fault) for fault in refused.faults]
        return []

    thorough = settings(
        max_examples=max(300, settings.default.max_examples),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )

    @thorough
    @given(
        st.lists(st.tuples(st.integers(0, len(GOOD.data) - 1), st.integers(0, 255)), max_size=8),
        st.integers(0, len(GOOD.data)),
    )
    def test_changed_bytes(self, changes: list[tuple[int, int]], size: int) -> None:
        data = bytearray(GOOD.data)
        for place, byte in changes:
            data[place] = byte
        self.survives(bytes(data))
        self.survives(bytes(data[:size]))

    JSON = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from([*HEADER, *HEADER["u"], "galenic"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    )

    @thorough
    @given(
        st.dictionaries(st.sampled_from([*HEADER, "metaprompt", "w", "\r\n"]), JSON),
        st.binary(max_size=64),
    )
    def test_any_header(self, header: dict[str, Any], tensors: bytes) -> None:
        self.survives(file(header, tensors))
        self.survives(file(HEADER | header, TENSORS))

    @thorough
    @given(st.sampled_from([*MANIFEST, "x"]), JSON)
    def test_any_manifest(self, field: str, value: Any) -> None:
        self.survives(with_manifest(**{field: value}))

    @thorough
    @given(st.sampled_from("uv"), st.sampled_from([*HEADER["u"]]), JSON)
    def test_any_entry(self, name: str, field: str, value: Any) -> None:
        self.survives(with_entry(name, **{field: value}))

    @thorough
    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        self.survives(data)
        self.survives(file(b"{" + data, data))
