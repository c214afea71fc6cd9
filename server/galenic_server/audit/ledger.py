"""
What one HTTP request made the engine do, counted where it is done and read where it is audited.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True)
class Spent:
    """What one adapter spent on a request."""

    num_answers: int = 0
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0


@dataclass(slots=True)
class Ledger:
    """What one HTTP request made the engine do, by the adapters' digests; none is the backbone."""

    by_digest: dict[str | None, Spent] = field(default_factory=dict)

    def of(self, digest: str | None) -> Spent:
        return self.by_digest.setdefault(digest, Spent())


LEDGER: ContextVar[Ledger | None] = ContextVar("ledger", default=None)
"""Set where a request comes in; whatever it starts writes there."""
