"""
The zoo's adapters, shared with every tenant when a server starts.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from galenic_adapters.errors import RejectedUpload
from galenic_adapters.factor import Metaprompt
from galenic_adapters.package.file import Package, check_fits
from galenic_adapters.package.manifest import BackboneId
from galenic_adapters.package.zoo import DEFAULTS, METAPROMPT
from galenic_adapters.refs import SHARED, AdapterRef
from galenic_server.registry.store import SqlStore


@dataclass(frozen=True, slots=True)
class Sharing:
    """Where shared adapters go, and what they have to fit."""

    store: SqlStore
    backbone: BackboneId
    metaprompt: Metaprompt
    max_rank: int

    def share(self, folder: Path, say: Callable[[str], None]) -> list[AdapterRef]:
        """Publish what the store does not have yet, name each task's default; returns the new."""
        new = []
        for path in _packages(folder):
            try:
                ref, is_new = self._share_one(path)
            except RejectedUpload as rejected:
                say(f"galenic: {path.name} is left out: {rejected}")
            else:
                new += [ref] if is_new else []
        return new

    def _share_one(self, path: Path) -> tuple[AdapterRef, bool]:
        package = Package.read(path.read_bytes())
        check_fits(
            package, backbone=self.backbone, metaprompt=self.metaprompt, max_rank=self.max_rank
        )
        known = self._find(path.stem, package.digest)
        ref = known or self.store.publish(SHARED, path.stem, package)
        self._make_default(package.manifest.task, ref)
        return ref, known is None

    def _find(self, name: str, digest: str) -> AdapterRef | None:
        """The version of *name* that holds these bytes."""
        entries = self.store.versions(SHARED, name)
        same = [entry.ref for entry in entries if entry.digest == digest]
        return max(same, default=None)

    def _make_default(self, task: str, ref: AdapterRef) -> None:
        """
        An alias that stands already stays, unless this is a newer version of what it points to, or
        that was made for another server.
        """
        current = self.store.aliases(SHARED).get(task)
        if current is None or self._is_outdated(current.ref, ref):
            self.store.move_alias(SHARED, task, ref)

    def _is_outdated(self, current: AdapterRef, ref: AdapterRef) -> bool:
        manifest = self.store.describe(current).manifest
        is_older = current.name == ref.name and current.version < ref.version
        return is_older or manifest.misfit(self.backbone, self.metaprompt.digest) is not None


def _packages(folder: Path) -> list[Path]:
    """Its packages, those first that shall be their task's default."""
    listed = folder / DEFAULTS
    defaults = json.loads(listed.read_text("utf-8")) if listed.is_file() else []
    paths = (path for path in folder.glob("*.safetensors") if path.name != METAPROMPT)
    return sorted(paths, key=lambda path: (path.stem not in defaults, path.stem))
