"""
What ``galenic import-peft`` and ``galenic export-peft`` do.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import AutoConfig

from galenic_adapters.backbone.weights import Backbone, ensure
from galenic_adapters.errors import BadInput
from galenic_adapters.factor import Metaprompt
from galenic_adapters.package.file import Package, read_metaprompt, write_metaprompt
from galenic_adapters.package.manifest import BackboneId
from galenic_adapters.package.peft_read import import_adapter, read_checkpoint
from galenic_adapters.package.peft_write import Form, write_checkpoint
from galenic_adapters.package.zoo import METAPROMPT, metaprompt_of

Say = Callable[[str], None]


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
    """Write a task of *checkpoint* into *folder* as a package, beside the metaprompt it scales."""
    read = read_checkpoint(checkpoint)
    found = ensure(backbone, say)
    _check_width(read.metaprompt, found)
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
    _settle_metaprompt(read.metaprompt, folder / METAPROMPT)
    (folder / f"{name}.safetensors").write_bytes(package.data)
    say(f"{name}: {len(package.data):,} bytes over metaprompt {read.metaprompt.digest}")


def export_peft(
    package_files: Sequence[Path],
    folder: Path,
    *,
    metaprompt_file: Path | None = None,
    form: Form = "multitask",
    say: Say = print,
) -> None:
    """Write packages of one metaprompt (the zoo's, if none is named) as one PEFT checkpoint."""
    packages = [Package.read(path.read_bytes()) for path in package_files]
    if not packages:
        raise BadInput("packages", "none given")
    metaprompt = metaprompt_of(packages[0].manifest.backbone, metaprompt_file)
    write_checkpoint(folder, metaprompt, packages, form=form)
    for task_id, package in enumerate(packages):
        say(f"task {task_id}: {package.manifest.name}")
    say(f"PEFT loads them from {folder}")


def _check_width(metaprompt: Metaprompt, backbone: Backbone) -> None:
    width = AutoConfig.from_pretrained(backbone.path).get_text_config().hidden_size
    if metaprompt.width != width:
        raise BadInput(
            "checkpoint", f"has width {metaprompt.width}, {backbone.name} has width {width}"
        )


def _settle_metaprompt(metaprompt: Metaprompt, path: Path) -> None:
    """One folder holds one metaprompt; another's packages would be orphans."""
    if path.exists() and (there := read_metaprompt(path.read_bytes()).digest) != metaprompt.digest:
        raise BadInput(str(path), f"is {there}, the checkpoint has {metaprompt.digest}")
    path.write_bytes(write_metaprompt(metaprompt))
