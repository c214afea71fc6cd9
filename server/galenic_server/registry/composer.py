"""
Composes stored adapters for an engine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from galenic_adapters.factor import Composed
from galenic_adapters.package.file import Fit
from galenic_server.registry.packages import Packages


@dataclass(frozen=True, slots=True)
class Composer:
    """Composes stored factors with the metaprompts that they were made for."""

    packages: Packages
    fit: Fit

    def __call__(self, digests: Sequence[str]) -> Mapping[str, Composed]:
        """Compose these adapters; those that are missing, or do not fit, are left out."""
        backbone, metaprompts = self.fit.backbone, self.fit.metaprompts
        return {
            digest: self.fit.composed(package)
            for digest, package in self.packages.get_many(digests).items()
            if package.manifest.misfit(backbone, metaprompts) is None
        }
