"""
Stored adapters as an engine takes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from galenic_adapters.errors import NotFound
from galenic_adapters.package.file import Fit, Package
from galenic_server.engine.contract import Adapter
from galenic_server.registry.packages import Packages


@dataclass(frozen=True, slots=True)
class Composer:
    """Composes stored factors with the metaprompts that they were made for."""

    packages: Packages
    fit: Fit

    def one(self, digest: str) -> Adapter:
        """Raises `NotFound` where it is not stored, or made for another metaprompt."""
        package = self.packages.get(digest)
        if not self._is_composable(package):
            raise NotFound(f"no adapter of digest {digest} over a metaprompt that is here")
        return self.composed(package)

    def many(self, digests: Sequence[str]) -> Mapping[str, Adapter]:
        """Compose those of *digests* that are stored and can be."""
        packages = self.packages.get_many(digests)
        return {
            digest: self.composed(package)
            for digest, package in packages.items()
            if self._is_composable(package)
        }

    def composed(self, package: Package) -> Adapter:
        # vLLM's embedding composes the rows of a product itself.
        return package.factor if package.manifest.rank else self.fit.composed(package)

    def _is_composable(self, package: Package) -> bool:
        return package.manifest.misfit(self.fit.backbone, self.fit.metaprompts) is None
