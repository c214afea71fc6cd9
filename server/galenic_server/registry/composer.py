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
        """Compose these adapters; those not stored, or for another server, are left out."""
        return {
            digest: self.fit.composed(package)
            for digest, package in self.packages.get_many(digests).items()
            if self.fit.misfit(package.manifest) is None
        }
