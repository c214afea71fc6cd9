"""
An adapter as one file: safetensors bytes with the tensors ``u`` (P, R) and ``v`` (R, D), and the
manifest.

An upload is a stranger's file, so it is parsed as data: sizes first, then JSON, then the tensors'
form, then their values. Nothing is unpickled, and no allocation follows a number not yet checked.

    8 bytes    length of the header, little-endian
    header     {"__metadata__": {"galenic": "<manifest as JSON text>"},
                "u": {"dtype", "shape", "data_offsets"}, "v": …}
    tensors    as the offsets say, without holes

Dimension key:  P prompt positions   D model width   R rank
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from galenic_adapters.errors import Fault, RejectedUpload
from galenic_adapters.factor import Factor, Metaprompt, compose
from galenic_adapters.package.dtypes import SAFETENSORS_DTYPES
from galenic_adapters.package.manifest import BackboneId, Manifest
from galenic_adapters.tasks.lookup import TASKS

MAX_PACKAGE_BYTES = 8 * 2**20
MAX_METAPROMPT_BYTES = 512 * 2**20
MAX_HEADER_BYTES = 64 * 2**10
MAX_FAULTS = 32
MAX_ENTRY = 1e4
"""Of u, of v and of their product: a learned scale is about 1, and this still fits a float16."""
MAX_ROW_NORM = 1e5
"""Of a composed prompt row; token embeddings have norms of 0.1 to 100."""

FOREIGN = {
    b"\x80": "a Python pickle",
    b"PK": "a zip archive or a torch checkpoint",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"GGUF": "GGUF",
    b"\x89HDF": "HDF5",
    b"\x93NUMPY": "a numpy array",
}
TAR_MAGIC, TAR_OFFSET = b"ustar", 257

M = TypeVar("M", bound=BaseModel)


def package_digest(data: bytes) -> str:
    """The adapter's name among all there are: the hash of its whole file."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def checked_factor(data: bytes) -> Factor:
    """The factor in a package's bytes that were read before: nothing else is looked at again."""
    tensors = load(data)
    return Factor(tensors["u"], tensors["v"])


@dataclass(frozen=True)
class Package:
    """One adapter, checked; made by `read` and `write`, named by the digest of its bytes."""

    manifest: Manifest
    factor: Factor = field(compare=False)
    data: bytes = field(repr=False)

    @cached_property
    def digest(self) -> str:
        return package_digest(self.data)

    @classmethod
    def read(cls, data: bytes, *, max_bytes: int = MAX_PACKAGE_BYTES) -> "Package":
        """The package in *data*. Raises `RejectedUpload` with every fault that could be told."""
        return inspect(data, max_bytes=max_bytes).package()

    @classmethod
    def write(cls, manifest: Manifest, factor: Factor) -> "Package":
        """The package of the two; the same input makes the same bytes. Refuses as `read` does."""
        tensors = {"u": _plain(factor.u_PR), "v": _plain(factor.v_RD)}
        return cls.read(save(tensors, metadata={"galenic": manifest.model_dump_json()}))


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything that could be read of a file, and everything that is wrong with it."""

    data: bytes
    manifest: Manifest | None
    tensors: Mapping[str, Tensor]
    faults: tuple[Fault, ...]

    def package(self) -> Package:
        """Raises `RejectedUpload` where there is a fault."""
        _refuse(self.faults)
        assert self.manifest is not None, "no fault, so there is a manifest"
        return Package(self.manifest, Factor(self.tensors["u"], self.tensors["v"]), self.data)


def inspect(data: bytes, *, max_bytes: int = MAX_PACKAGE_BYTES) -> Inspection:
    """What stands in *data*, a stranger's."""
    try:
        text = _header_text(data, max_bytes)
    except RejectedUpload as rejected:
        return Inspection(data, None, {}, rejected.faults)
    faults: list[Fault] = []
    header = _parse(_PackageHeader, text, "", faults)
    manifest = _parse_manifest(text, faults)
    if header and manifest:
        faults += _disagreements(header, manifest)
    tensors = _load(data, faults) if header else {}
    if tensors:
        faults += _excesses(tensors["u"], tensors["v"])
    return Inspection(data, manifest, tensors, tuple(faults))


def check_fits(
    package: Package, *, backbone: BackboneId, metaprompt: Metaprompt, max_rank: int
) -> None:
    """Raises `RejectedUpload`, naming both values, where *package* was not made for this server."""
    _refuse(misfits(package.manifest, backbone, metaprompt, max_rank))
    _refuse(_prompt_excesses(compose(metaprompt, package.factor)))


def misfits(
    manifest: Manifest, backbone: BackboneId, metaprompt: Metaprompt, max_rank: int
) -> list[Fault]:
    """Where an adapter of that *manifest* was made for something else than this server has."""
    ours = {
        "backbone": (str(manifest.backbone), str(backbone)),
        "metaprompt": (manifest.metaprompt, metaprompt.digest),
        "positions": (manifest.positions, metaprompt.num_positions),
        "width": (manifest.width, metaprompt.width),
        "template_version": (manifest.template_version, TASKS[manifest.task].template_version),
    }
    faults = [
        Fault(f"manifest.{name}", f"is {theirs}, this server has {here}")
        for name, (theirs, here) in ours.items()
        if theirs != here
    ]
    if manifest.rank > max_rank:
        faults.append(Fault("manifest.rank", f"is {manifest.rank}, at most {max_rank} here"))
    return faults


def read_metaprompt(data: bytes) -> Metaprompt:
    """The metaprompt in a safetensors file. Raises `RejectedUpload`."""
    text = _header_text(data, MAX_METAPROMPT_BYTES)
    faults: list[Fault] = []
    header = _parse(_MetapromptHeader, text, "", faults)
    tensors = _load(data, faults) if header else {}
    if tensors:
        faults += _not_finite("metaprompt", tensors["metaprompt"])
    _refuse(faults)
    return Metaprompt(tensors["metaprompt"])


def write_metaprompt(metaprompt: Metaprompt) -> bytes:
    """Its safetensors file, whose own sha256 is the metaprompt's digest."""
    data: bytes = save({"metaprompt": _plain(metaprompt.rows_PD)})
    return data


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


Dimension = Annotated[int, Field(ge=1, le=2**31)]
Offset = Annotated[int, Field(ge=0, le=2**40)]


class _TensorHeader(_Part):
    dtype: Literal["F32", "BF16", "F16"]
    shape: tuple[Dimension, Dimension]
    data_offsets: tuple[Offset, Offset]


class _Metadata(_Part):
    galenic: str


class _PackageHeader(_Part):
    metadata: _Metadata = Field(alias="__metadata__")
    u: _TensorHeader
    v: _TensorHeader


class _MetapromptHeader(_Part):
    metadata: dict[str, str] = Field(alias="__metadata__", default={})
    metaprompt: _TensorHeader


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _refuse(faults: Iterable[Fault]) -> None:
    told = list(faults)
    if len(told) > MAX_FAULTS:
        told[MAX_FAULTS:] = [Fault("package", f"and {len(told) - MAX_FAULTS} faults more")]
    if told:
        raise RejectedUpload(*told)


def _header_text(data: bytes, max_bytes: int) -> bytes:
    """The header's bytes, once the file's outermost shape is known to be safetensors'."""
    if len(data) > max_bytes:
        raise RejectedUpload(Fault("package", f"{len(data)} bytes, at most {max_bytes}"))
    size = int.from_bytes(data[:8], "little")
    if data[8:9] != b"{" and (foreign := _foreign(data)):
        raise RejectedUpload(Fault("package", f"is {foreign}, not safetensors; it was not opened"))
    if size > MAX_HEADER_BYTES:
        raise RejectedUpload(Fault("header", f"{size} bytes, at most {MAX_HEADER_BYTES}"))
    if len(data) < 8 + size or data[8:9] != b"{":
        raise RejectedUpload(Fault("package", f"is not safetensors, or cut at {len(data)} bytes"))
    return data[8 : 8 + size]


def _foreign(data: bytes) -> str | None:
    """What else the file looks like. (A safetensors file may begin with any of these by chance.)"""
    if data[TAR_OFFSET:].startswith(TAR_MAGIC):
        return "a tar archive"
    return next((kind for magic, kind in FOREIGN.items() if data.startswith(magic)), None)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(made := dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return made


def _json(text: str | bytes) -> Any:
    """JSON with distinct keys, else `ValueError`; parsers disagree about which twin counts."""
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at {error.pos}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _parse(model: type[M], text: str | bytes, path: str, faults: list[Fault]) -> M | None:
    """*text* as *model*, or none and its *faults*, whose paths begin with *path*."""
    try:
        _json(text)
        return model.model_validate_json(text)
    except ValidationError as error:
        faults += _faults_of(error, path)
    except ValueError as error:
        faults.append(Fault(path or "header", str(error)))
    return None


def _faults_of(error: ValidationError, path: str) -> Iterator[Fault]:
    for problem in error.errors(include_url=False, include_input=False):
        is_metadata = problem["loc"][:1] == ("__metadata__",)
        root = path or ("metadata" if is_metadata else "tensors")
        steps = problem["loc"][1:] if is_metadata else problem["loc"]
        where = root + "".join(map(_step, steps))
        yield Fault(where, problem["msg"].removeprefix("Value error, "))


def _step(step: str | int) -> str:
    """One step of a JSON path, which may be a stranger's key."""
    if isinstance(step, int):
        return f"[{step}]"
    return "." + step[:64].encode("unicode_escape").decode()


def _parse_manifest(header: bytes, faults: list[Fault]) -> Manifest | None:
    """The manifest, even beside tensors that are wrong: a sender wants to hear of both at once."""
    try:
        text = _json(header)["__metadata__"]["galenic"]
    except (ValueError, KeyError, TypeError):
        return None  # the header's own faults say so
    return _parse(Manifest, text, "manifest", faults) if isinstance(text, str) else None


def _disagreements(header: _PackageHeader, manifest: Manifest) -> Iterator[Fault]:
    shapes = {"u": (manifest.positions, manifest.rank), "v": (manifest.rank, manifest.width)}
    for name, tensor in (("u", header.u), ("v", header.v)):
        if (said := shapes[name]) != tensor.shape:
            yield Fault(f"tensors.{name}", f"has shape {tensor.shape}, manifest says {said}")
        if (dtype := SAFETENSORS_DTYPES[tensor.dtype]) != manifest.dtype:
            yield Fault(f"tensors.{name}", f"is {dtype}, manifest says {manifest.dtype}")


def _load(data: bytes, faults: list[Fault]) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load(data)
        return tensors
    except SafetensorError as error:
        faults.append(Fault("tensors", f"do not fill the file as the header says: {error}"))
        return {}


def _not_finite(name: str, tensor: Tensor) -> Iterator[Fault]:
    if not tensor.isfinite().all():
        yield Fault(f"tensors.{name}", "holds NaN or infinity")


def _excesses(u_PR: Tensor, v_RD: Tensor) -> Iterator[Fault]:
    """Values no prompt survives. The product is bounded, not made: P and D are a stranger's."""
    if strange := [*_not_finite("u", u_PR), *_not_finite("v", v_RD)]:
        yield from strange
        return
    for name, tensor in (("u", u_PR), ("v", v_RD)):
        if (largest := tensor.double().abs().max().item()) > MAX_ENTRY:
            yield Fault(f"tensors.{name}", f"largest entry is {largest:.3g}, at most {MAX_ENTRY:g}")
    # Cauchy-Schwarz: |u_p · v_d| ≤ |u_p| |v_d|
    bound = (u_PR.double().norm(dim=1).max() * v_RD.double().norm(dim=0).max()).item()
    if bound > MAX_ENTRY:
        yield Fault("tensors", f"u·v may reach {bound:.3g}, at most {MAX_ENTRY:g}")


def _prompt_excesses(prompt_PD: Tensor) -> Iterator[Fault]:
    norm = prompt_PD.double().norm(dim=1).max().item()
    if not norm <= MAX_ROW_NORM:  # NaN too
        yield Fault("tensors", f"make a prompt row of norm {norm:.3g}, at most {MAX_ROW_NORM:g}")
