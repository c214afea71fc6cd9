"""
Finds the adapters that Galenic ships: a folder for each backbone, shared with every tenant.

    zoo/<backbone's name in lower case>/metaprompt.safetensors  <adapter>.safetensors  <adapter>.md

Adapters of an earlier metaprompt go on beside it, in a file like ``metaprompt-2026.safetensors``.
``defaults.json`` there lists the adapters that answer where a request names none.
"""

from collections.abc import Sequence
from pathlib import Path

from galenic_adapters.errors import NotFound
from galenic_adapters.factor import Metaprompt
from galenic_adapters.files import bytes_of
from galenic_adapters.package.file import read_metaprompt
from galenic_adapters.package.manifest import BackboneId

ZOO = Path(__file__).parents[2] / "zoo"
METAPROMPT = "metaprompt.safetensors"
DEFAULTS = "defaults.json"


def folder_of(zoo: Path, backbone: BackboneId) -> Path:
    """Return the folder of *backbone*'s adapters, whether or not it exists."""
    return zoo / backbone.name.rpartition("/")[2].lower()


def is_metaprompt(path: Path) -> bool:
    """Tell a metaprompt from the packages beside it, by its name."""
    return path.name.startswith("metaprompt") and path.suffix == ".safetensors"


def metaprompts_of(
    backbone: BackboneId, given: Sequence[Path] = (), *, zoo: Path = ZOO
) -> dict[str, Metaprompt]:
    """Read the metaprompts *given* and the zoo's for this backbone; raises `BadInput`."""
    own = filter(is_metaprompt, sorted(folder_of(zoo, backbone).glob("*.safetensors")))
    found = [read_metaprompt(bytes_of(path)) for path in (*given, *own)]
    return {metaprompt.digest: metaprompt for metaprompt in found}


def metaprompt_of(
    backbone: BackboneId, given: Path | None = None, *, zoo: Path = ZOO
) -> Metaprompt:
    """Read the metaprompt *given*, or else the zoo's for this backbone; raises `NotFound`."""
    path = given or folder_of(zoo, backbone) / METAPROMPT
    if not path.is_file():
        raise NotFound(
            f"no metaprompt at {path}: `galenic train` makes one for {backbone},"
            " which GALENIC_METAPROMPT or --metaprompt names"
        )
    return read_metaprompt(path.read_bytes())
