"""
The adapters that Galenic ships: a folder for each backbone, shared with every tenant at the start.

    zoo/<backbone's name in lower case>/metaprompt.safetensors  <adapter>.safetensors  <adapter>.md
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from galenic_adapters.errors import NotFound, RejectedUpload
from galenic_adapters.factor import Metaprompt
from galenic_adapters.manifest import BackboneId
from galenic_adapters.package import Package, check_fits, read_metaprompt
from galenic_adapters.refs import SHARED, AdapterRef
from galenic_adapters.store import AdapterStore

ZOO = Path(__file__).parents[1] / "zoo"
METAPROMPT = "metaprompt.safetensors"


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


def share(
    store: AdapterStore,
    folder: Path,
    *,
    backbone: BackboneId,
    metaprompt: Metaprompt,
    max_rank: int,
    say: Callable[[str], None],
) -> list[AdapterRef]:
    """
    Publish what the store does not have yet, and name each task's default; returns what is new.

    An alias that stands already stays, unless it points to an older version of the same adapter.
    """
    new = []
    for path in _packages(folder):
        try:
            package = Package.read(path.read_bytes())
            check_fits(package, backbone=backbone, metaprompt=metaprompt, max_rank=max_rank)
        except RejectedUpload as rejected:
            say(f"galenic: {path.name} is left out: {rejected}")
            continue
        ref = _find(store, path.stem, package.digest)
        if ref is None:
            ref = store.publish(SHARED, path.stem, package)
            new.append(ref)
        _make_default(store, package.manifest.task, ref)
    return new


def _packages(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.glob("*.safetensors")) if path.name != METAPROMPT)


def _find(store: AdapterStore, name: str, digest: str) -> AdapterRef | None:
    """The version of *name* that holds these bytes."""
    entries = store.owned_by(SHARED, limit=1000)
    same = [e.ref for e in entries if e.ref.name == name and e.digest == digest]
    return max(same, default=None)


def _make_default(store: AdapterStore, task: str, ref: AdapterRef) -> None:
    current = store.aliases(SHARED).get(task)
    if current is None or (current.name == ref.name and current.version < ref.version):
        store.move_alias(SHARED, task, ref)
