"""
Counts what one HTTP request made the engine do, for its audit rows.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True)
class Spent:
    """Counts the answers and tokens of one adapter in a request."""

    num_answers: int = 0
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0


@dataclass(slots=True)
class Ledger:
    """Holds a request's counts by adapter digest; None stands for the bare backbone."""

    by_digest: dict[str | None, Spent] = field(default_factory=dict)

    def of(self, digest: str | None) -> Spent:
        return self.by_digest.setdefault(digest, Spent())


LEDGER: ContextVar[Ledger | None] = ContextVar("ledger", default=None)
"""The current request's ledger, set where the request enters; tasks that it starts share it."""
