"""
The adapters that Galenic ships: a folder for each backbone, shared with every tenant at the start.

    zoo/<backbone's name in lower case>/metaprompt.safetensors  <adapter>.safetensors  <adapter>.md

``defaults.json`` there lists the adapters that answer where a request names none.
"""

from pathlib import Path

from galenic_adapters.errors import NotFound
from galenic_adapters.factor import Metaprompt
from galenic_adapters.package.file import read_metaprompt
from galenic_adapters.package.manifest import BackboneId

ZOO = Path(__file__).parents[2] / "zoo"
METAPROMPT = "metaprompt.safetensors"
DEFAULTS = "defaults.json"


def folder_of(zoo: Path, backbone: BackboneId) -> Path:
    """Where the adapters of *backbone* stand, if there are any."""
    return zoo / backbone.name.rpartition("/")[2].lower()


def metaprompt_of(
    backbone: BackboneId, given: Path | None = None, *, zoo: Path = ZOO
) -> Metaprompt:
    """The one that was *given*, else the zoo's for this backbone; raises `NotFound`."""
    path = given or folder_of(zoo, backbone) / METAPROMPT
    if not path.is_file():
        raise NotFound(
            f"no metaprompt at {path}: `galenic train` makes one for {backbone},"
            " which GALENIC_METAPROMPT or --metaprompt names"
        )
    return read_metaprompt(path.read_bytes())
