"""
Adapters of the store as an engine takes them.
"""

from collections.abc import Sequence
from contextlib import suppress

from galenic_adapters.errors import BadFactor
from galenic_adapters.factor import Composed, Metaprompt, compose
from galenic_server.engine.contract import AdaptersOf
from galenic_server.registry.factors import Factors


def adapters_of(factors: Factors, metaprompt: Metaprompt) -> AdaptersOf:
    """Composes factors with *metaprompt*; one that was made for another is left out."""

    def composed(digests: Sequence[str]) -> dict[str, Composed]:
        found = {}
        for digest, factor in factors.get_many(digests).items():
            with suppress(BadFactor):
                found[digest] = Composed(rows_PD=compose(metaprompt, factor))
        return found

    return composed
