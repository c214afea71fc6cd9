"""
Reads and writes an adapter as one file: a safetensors file with the tensors of its factor, named as
in `Factor.tensors`, and the manifest.

An upload is untrusted, so it is parsed as data: sizes first, then JSON, then the tensors' shapes,
then their values. Nothing is unpickled, and every number is checked before it sizes an allocation.

    8 bytes    length of the header, little-endian
    header     {"__metadata__": {"galenic": "<manifest as JSON text>"},
                "u": {"dtype", "shape", "data_offsets"}, "scales.o": …}
    tensors    as the offsets say, without holes

Dimension key:  P prompt positions   D model width   R rank   L layers   W width of an activation
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

from galenic_adapters.errors import BadFactor, Fault, RejectedUpload
from galenic_adapters.factor import Composed, Factor, Metaprompt, compose
from galenic_adapters.package.dtypes import SAFETENSORS_DTYPES
from galenic_adapters.package.manifest import BackboneId, Manifest
from galenic_adapters.shape import PLACES, SCALE_PREFIX, BackboneShape
from galenic_adapters.tasks.lookup import TASKS

MAX_PACKAGE_BYTES = 8 * 2**20
MAX_METAPROMPT_BYTES = 512 * 2**20
MAX_HEADER_BYTES = 64 * 2**10
MAX_FAULTS = 32
MAX_ENTRY = 1e4
"""Bounds u, v and their product: learned scales are about 1, and this still fits a float16."""
MAX_ROW_NORM = 1e5
"""Bounds a composed prompt row's norm; token embeddings have norms of 0.1 to 100."""

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
    """Return the digest that names an adapter: the hash of its whole file."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Package:
    """Holds one checked adapter; made by `read` and `write`, named by its bytes' digest."""

    manifest: Manifest
    factor: Factor = field(compare=False)
    data: bytes = field(repr=False)

    @cached_property
    def digest(self) -> str:
        return package_digest(self.data)

    @classmethod
    def read(cls, data: bytes, *, max_bytes: int = MAX_PACKAGE_BYTES) -> "Package":
        """Read the package in *data*. Raises `RejectedUpload` with every fault found."""
        return inspect(data, max_bytes=max_bytes).package()

    @classmethod
    def trusted(cls, data: bytes) -> "Package":
        """Read bytes that `read` accepted before, without checking them again."""
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        manifest = Manifest.model_validate_json(header["__metadata__"]["galenic"])
        return cls(manifest, Factor.of(load(data)), data)

    @classmethod
    def write(cls, manifest: Manifest, factor: Factor) -> "Package":
        """Make a package; the same input gives the same bytes. Raises what `read` raises."""
        tensors = {name: _plain(tensor) for name, tensor in factor.tensors.items()}
        return cls.read(save(tensors, metadata={"galenic": manifest.model_dump_json()}))


@dataclass(frozen=True, slots=True)
class Inspection:
    """Holds everything that could be read from a file, and all its faults."""

    data: bytes
    manifest: Manifest | None
    tensors: Mapping[str, Tensor]
    faults: tuple[Fault, ...]

    def package(self) -> Package:
        """Return the package; raises `RejectedUpload` if there are faults."""
        _refuse(self.faults)
        assert self.manifest is not None, "no fault, so there is a manifest"
        return Package(self.manifest, Factor.of(self.tensors), self.data)


def inspect(data: bytes, *, max_bytes: int = MAX_PACKAGE_BYTES) -> Inspection:
    """Inspect untrusted *data* without raising."""
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
        faults += _excesses(tensors)
    if tensors and not faults:
        faults += _misshapen(tensors)
    return Inspection(data, manifest, tensors, tuple(faults))


@dataclass(frozen=True, slots=True)
class Fit:
    """
    Checks that an adapter was made for what a server has.

    metaprompts: by digest.   places: where it scales activations.   max_rank: of a product at the
    input.   max_positions: of a prompt.
    """

    backbone: BackboneId
    metaprompts: Mapping[str, Metaprompt]
    shape: BackboneShape
    places: tuple[str, ...] = PLACES
    max_rank: int = 4096
    max_positions: int = 2**14

    def metaprompt_of(self, manifest: Manifest) -> Metaprompt | None:
        """Return the metaprompt that the adapter acts on; None if it needs none."""
        return None if manifest.metaprompt is None else self.metaprompts[manifest.metaprompt]

    def num_positions(self, manifest: Manifest) -> int:
        """Return the number of prompt positions, of the adapter's own or of its metaprompt."""
        metaprompt = self.metaprompt_of(manifest)
        return manifest.num_positions or (metaprompt.num_positions if metaprompt else 0)

    def composed(self, package: Package) -> Composed:
        """Compose a *package* that `check` accepted, for an engine."""
        return compose(self.metaprompt_of(package.manifest), package.factor)

    def check(self, package: Package) -> None:
        """Raise `RejectedUpload`, naming both values, if *package* does not fit."""
        _refuse(self.misfits(package.manifest))
        _refuse(_composed_excesses(self.composed(package)))

    def misfits(self, manifest: Manifest) -> list[Fault]:
        """List the faults of an adapter with that *manifest* that do not fit this server."""
        faults = []
        if manifest.backbone != self.backbone:
            found = f"is {manifest.backbone}, this server has {self.backbone}"
            faults.append(Fault("manifest.backbone", found))
        faults += self._metaprompt_misfits(manifest)
        faults += self._place_misfits(manifest)
        faults += self._shape_misfits(manifest)
        if manifest.template_version != (here := TASKS[manifest.task].template_version):
            found = f"is {manifest.template_version}, this server has {here}"
            faults.append(Fault("manifest.template_version", found))
        return faults

    def misfit(self, manifest: Manifest) -> str | None:
        """Say why a stored adapter, which fitted some server once, does not fit this one."""
        if problem := manifest.misfit(self.backbone, self.metaprompts):
            return problem
        return next(
            (f"{fault.path} {fault.problem}" for fault in self._place_misfits(manifest)), None
        )

    def _place_misfits(self, manifest: Manifest) -> Iterator[Fault]:
        shared = self.metaprompts.get(manifest.metaprompt or "")
        needed = [("tensors", str(name)) for name in manifest.shapes]
        needed += [("metaprompt", name) for name in (shared.tensors if shared else ())]
        here = ", ".join(self.places) or "nothing"
        for whose, name in needed:
            if name.startswith(SCALE_PREFIX) and name.removeprefix(SCALE_PREFIX) not in self.places:
                found = f"has no place: this server scales {here}; GALENIC_PLACES"
                yield Fault(f"{whose}.{name}", found)

    def _metaprompt_misfits(self, manifest: Manifest) -> Iterator[Fault]:
        named = manifest.metaprompt
        if named is None:
            if "u" in manifest.shapes:
                yield Fault("manifest.metaprompt", "is none, and u and v scale a metaprompt's rows")
            return
        if named not in self.metaprompts:
            here = ", ".join(sorted(self.metaprompts)) or "none"
            yield Fault("manifest.metaprompt", f"is {named}, this server has {here}")
            return
        metaprompt = self.metaprompts[named]
        if "u" in manifest.shapes:
            made = (manifest.shapes["u"][0], manifest.shapes["v"][-1])
            if made != (there := (metaprompt.num_positions, metaprompt.width)):
                yield Fault(
                    "manifest.shapes", f"make a prompt of {made}, the metaprompt is {there}"
                )

    def _shape_misfits(self, manifest: Manifest) -> Iterator[Fault]:
        for name, shape in manifest.shapes.items():
            expected = self.shape.of(name)
            if any(here not in (None, size) for size, here in zip(shape, expected, strict=False)):
                wanted = ", ".join("any" if size is None else str(size) for size in expected)
                yield Fault(f"tensors.{name}", f"has shape {shape}, this backbone takes ({wanted})")
        if manifest.rank > self.max_rank:
            yield Fault("manifest.rank", f"is {manifest.rank}, at most {self.max_rank} here")
        if manifest.num_positions > self.max_positions:
            found = f"are {manifest.num_positions}, at most {self.max_positions} here"
            yield Fault("manifest.positions", found)


def read_metaprompt(data: bytes) -> Metaprompt:
    """Read the metaprompt in a safetensors file. Raises `RejectedUpload`."""
    text = _header_text(data, MAX_METAPROMPT_BYTES)
    faults: list[Fault] = []
    header = _parse(_MetapromptHeader, text, "", faults)
    tensors = _load(data, faults) if header else {}
    for name, tensor in tensors.items():
        faults += _not_finite(name, tensor)
    _refuse(faults)
    try:
        return Metaprompt.of(tensors)
    except BadFactor as error:
        raise RejectedUpload(Fault("tensors", str(error))) from error


def write_metaprompt(metaprompt: Metaprompt) -> bytes:
    """Write a metaprompt as safetensors bytes, whose own sha256 is its digest."""
    data: bytes = save({name: _plain(tensor) for name, tensor in metaprompt.tensors.items()})
    return data


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


Dimension = Annotated[int, Field(ge=1, le=2**31)]
Offset = Annotated[int, Field(ge=0, le=2**40)]


class _TensorHeader(_Part):
    dtype: Literal["F32", "BF16", "F16"]
    shape: Annotated[tuple[Dimension, ...], Field(min_length=2, max_length=3)]
    data_offsets: tuple[Offset, Offset]


class _Metadata(_Part):
    galenic: str


class _PackageHeader(_Part):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, _TensorHeader]

    metadata: _Metadata = Field(alias="__metadata__")

    @property
    def tensors(self) -> dict[str, _TensorHeader]:
        return self.__pydantic_extra__


class _MetapromptHeader(_PackageHeader):
    metadata: dict[str, str] = Field(alias="__metadata__", default={})  # type: ignore[assignment]


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _refuse(faults: Iterable[Fault]) -> None:
    found = list(faults)
    if len(found) > MAX_FAULTS:
        found[MAX_FAULTS:] = [Fault("package", f"and {len(found) - MAX_FAULTS} faults more")]
    if found:
        raise RejectedUpload(*found)


def _header_text(data: bytes, max_bytes: int) -> bytes:
    """Return the header's bytes, after checking that the file looks like safetensors."""
    if len(data) > max_bytes:
        raise RejectedUpload(Fault("package", f"{len(data)} bytes, at most {max_bytes}"))
    size = int.from_bytes(data[:8], "little")
    if data[8:9] != b"{" and (foreign := _foreign(data)):
        raise RejectedUpload(Fault("package", f"is {foreign}, not safetensors; it was not opened"))
    if size > MAX_HEADER_BYTES:
        raise RejectedUpload(Fault("header", f"{size} bytes, at most {MAX_HEADER_BYTES}"))
    if len(data) < 8 + size or data[8:9] != b"{":
        raise RejectedUpload(
            Fault("package", f"is not safetensors, or truncated at {len(data)} bytes")
        )
    return data[8 : 8 + size]


def _foreign(data: bytes) -> str | None:
    """Name the format that the file looks like, if not safetensors (which may look alike)."""
    if data[TAR_OFFSET:].startswith(TAR_MAGIC):
        return "a tar archive"
    return next((kind for magic, kind in FOREIGN.items() if data.startswith(magic)), None)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(made := dict(pairs)) != len(pairs):
        raise ValueError("a key is repeated")
    return made


def _json(text: str | bytes) -> Any:
    """Parse JSON; raises `ValueError`, also for repeated keys, on which parsers disagree."""
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at {error.pos}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _parse(model: type[M], text: str | bytes, path: str, faults: list[Fault]) -> M | None:
    """Parse *text* as *model*, or append its faults, with paths below *path*, and return None."""
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
    """Format one step of a JSON path; the key may come from an untrusted file."""
    if isinstance(step, int):
        return f"[{step}]"
    return "." + step[:64].encode("unicode_escape").decode()


def _parse_manifest(header: bytes, faults: list[Fault]) -> Manifest | None:
    """Parse the manifest even if tensors are faulty, so that a sender gets all faults at once."""
    try:
        text = _json(header)["__metadata__"]["galenic"]
    except (ValueError, KeyError, TypeError):
        return None  # reported as a fault of the header
    return _parse(Manifest, text, "manifest", faults) if isinstance(text, str) else None


def _disagreements(header: _PackageHeader, manifest: Manifest) -> Iterator[Fault]:
    shapes = {str(name): shape for name, shape in manifest.shapes.items()}
    for name in sorted(set(shapes) - set(header.tensors)):
        yield Fault(f"tensors.{name}", f"is missing, manifest says {shapes[name]}")
    for name, tensor in header.tensors.items():
        if name not in shapes:
            yield Fault("tensors" + _step(name), "is not in the manifest")
            continue
        if shapes[name] != tensor.shape:
            yield Fault(
                f"tensors.{name}", f"has shape {tensor.shape}, manifest says {shapes[name]}"
            )
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


def _excesses(tensors: Mapping[str, Tensor]) -> Iterator[Fault]:
    """
    Find values that would break any activation.

    Products are bounded without computing them, since their sizes come from an untrusted file.
    """
    if strange := [
        fault for name, tensor in tensors.items() for fault in _not_finite(name, tensor)
    ]:
        yield from strange
        return
    for name, tensor in tensors.items():
        if (largest := tensor.double().abs().max().item()) > MAX_ENTRY:
            yield Fault(f"tensors.{name}", f"largest entry is {largest:.3g}, at most {MAX_ENTRY:g}")
    if "u" in tensors and "v" in tensors:
        # Cauchy-Schwarz: |u_p · v_d| ≤ |u_p| |v_d|
        norms = tensors["u"].double().norm(dim=1).max() * tensors["v"].double().norm(dim=0).max()
        if (bound := norms.item()) > MAX_ENTRY:
            yield Fault("tensors", f"u·v may reach {bound:.3g}, at most {MAX_ENTRY:g}")


def _misshapen(tensors: Mapping[str, Tensor]) -> Iterator[Fault]:
    """Find shapes that do not make a factor."""
    try:
        Factor.of(tensors)
    except BadFactor as error:
        yield Fault("tensors", str(error))


def _composed_excesses(composed: Composed) -> Iterator[Fault]:
    """Find values that are too large once composed with the metaprompt."""
    if composed.rows_PD is not None:
        norm = composed.rows_PD.double().norm(dim=1).max().item()
        if not norm <= MAX_ROW_NORM:  # NaN too
            yield Fault(
                "tensors", f"make a prompt row of norm {norm:.3g}, at most {MAX_ROW_NORM:g}"
            )
    for place, scale_LW in composed.scales.items():
        for layer, largest in enumerate(scale_LW.double().abs().amax(1).tolist()):
            if not largest <= MAX_ENTRY:
                found = f"reach {largest:.3g} in layer {layer}, at most {MAX_ENTRY:g}"
                yield Fault(f"tensors.scales.{place}", found)
