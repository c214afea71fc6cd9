"""
Publishes the zoo: adapters that a server shares with every tenant.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from galenic_adapters.errors import RejectedUpload
from galenic_adapters.package.file import Fit, Package
from galenic_adapters.package.zoo import DEFAULTS, is_metaprompt
from galenic_adapters.progress import Say
from galenic_adapters.refs import SHARED, AdapterRef
from galenic_server.registry.aliases import Aliases
from galenic_server.registry.versions import Versions


@dataclass(frozen=True, slots=True)
class Sharing:
    """Publishes shared adapters that fit this server, and names the defaults of tasks."""

    versions: Versions
    aliases: Aliases
    fit: Fit

    def share(self, folder: Path, say: Say) -> list[AdapterRef]:
        """Publish adapters that are new, and set each task's default; returns the new versions."""
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
        self.fit.check(package)
        known = self._find(path.stem, package.digest)
        ref = known or self.versions.publish(SHARED, path.stem, package)
        self._make_default(package.manifest.task, ref)
        return ref, known is None

    def _find(self, name: str, digest: str) -> AdapterRef | None:
        """Return the newest version of *name* that has these bytes."""
        entries = self.versions.of_name(SHARED, name)
        same = [entry.ref for entry in entries if entry.digest == digest]
        return max(same, default=None)

    def _make_default(self, task: str, ref: AdapterRef) -> None:
        """
        Point the task's alias to *ref*.

        An existing one is kept, unless *ref* is a newer version of its target, or its target does
        not fit this server.
        """
        current = self.aliases.of(SHARED).get(task)
        if current is None or self._is_outdated(current.ref, ref):
            self.aliases.move(SHARED, task, ref)

    def _is_outdated(self, current: AdapterRef, ref: AdapterRef) -> bool:
        manifest = self.versions.describe(current).manifest
        is_older = current.name == ref.name and current.version < ref.version
        return is_older or self.fit.misfit(manifest) is not None


def _packages(folder: Path) -> list[Path]:
    """List the folder's packages; those that are to be their task's default come first."""
    listed = folder / DEFAULTS
    defaults = json.loads(listed.read_text("utf-8")) if listed.is_file() else []
    paths = (path for path in folder.glob("*.safetensors") if not is_metaprompt(path))
    return sorted(paths, key=lambda path: (path.stem not in defaults, path.stem))
