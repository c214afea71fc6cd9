"""
Runs the commands ``galenic import-peft`` and ``galenic export-peft``.
"""

from collections.abc import Collection, Sequence
from pathlib import Path, PurePath

from galenic_adapters.backbone.weights import ensure, is_mixture_at, shape_at
from galenic_adapters.errors import BadInput
from galenic_adapters.files import bytes_of, write_whole
from galenic_adapters.package.file import Package
from galenic_adapters.package.manifest import BackboneId
from galenic_adapters.package.peft_read import import_adapter, read_checkpoint
from galenic_adapters.package.peft_write import Form, write_checkpoint
from galenic_adapters.package.zoo import metaprompts_of
from galenic_adapters.progress import Say
from galenic_adapters.shape import PLACES


def import_peft(
    checkpoint: Path,
    folder: Path,
    *,
    name: str,
    task: str,
    labels: Sequence[str] = (),
    task_id: int = 0,
    licence: str = "not stated",
    backbone: str | None = None,
    say: Say = print,
) -> None:
    """Write a task of *checkpoint* into *folder* as a package that needs no metaprompt."""
    found = ensure(backbone, say)
    read = read_checkpoint(checkpoint, shape_at(found.path))
    if read.base and _last(read.base) != _last(found.name):
        say(f"warning: the checkpoint says it is for {read.base[:200]!r}, not {found.name}")
    package = import_adapter(
        read,
        task_id,
        name=name,
        task=task,
        labels=labels,
        backbone=BackboneId(name=found.name, revision=found.revision),
        licence=licence,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{name}.safetensors", package.data)
    say(f"{name}: {len(package.data):,} bytes of {', '.join(package.manifest.shapes)}")
    if scales := package.factor.scales:
        say(f"GALENIC_PLACES of its server has to hold {''.join(scales)}")


def export_peft(
    package_files: Sequence[Path],
    folder: Path,
    *,
    metaprompt_file: Path | None = None,
    form: Form = "multitask",
    backbone: str | None = None,
    say: Say = print,
) -> None:
    """Write packages as one PEFT checkpoint, with the metaprompt they act on (or the zoo's)."""
    packages = [Package.read(bytes_of(path)) for path in package_files]
    if not packages:
        raise BadInput("packages", "none given")
    manifest = packages[0].manifest
    metaprompts = metaprompts_of(manifest.backbone, [metaprompt_file] if metaprompt_file else [])
    metaprompt = metaprompts.get(manifest.metaprompt or "")
    scales = {*(metaprompt.scales if metaprompt else ()), *packages[0].factor.scales}
    places = _places(backbone, manifest.backbone, say) if "f" in scales else PLACES
    write_checkpoint(folder, metaprompt, packages, form=form, places=places)
    for task_id, package in enumerate(packages):
        say(f"task {task_id}: {package.manifest.name}")
    say(f"PEFT loads them from {folder}")


def _last(name: str) -> str:
    """Return a model's name without its owner or its folder, for comparison."""
    return PurePath(name).name.lower()


def _places(backbone: str | None, made_for: BackboneId, say: Say) -> Collection[str]:
    """Return the places where PEFT finds a module of the backbone; fused experts are not one."""
    found = ensure(backbone, say)
    here = BackboneId(name=found.name, revision=found.revision)
    if here != made_for:
        raise BadInput("backbone", f"is {here}, the package is for {made_for}")
    return [place for place in PLACES if place != "f" or not is_mixture_at(found.path)]
