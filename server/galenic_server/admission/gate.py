"""
Admits requests to the engine: fairly, with tokens counted, and without known crashing requests.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from galenic_server.admission.quarantine import Quarantine
from galenic_server.admission.turns import Turn, Turns
from galenic_server.audit.ledger import LEDGER, Spent
from galenic_server.engine.contract import AnyTime, Pass, Work


@dataclass(slots=True)
class Admitted:
    """The `Pass` of a request: its tokens are charged to its tenant, and recorded for the audit."""

    turn: Turn
    spent: Spent
    spend: Callable[[int], None]

    @property
    def priority(self) -> int:
        return self.turn.priority

    def count(self, num_tokens: int) -> None:
        self.turn.num_tokens += num_tokens
        self.spent.num_completion_tokens += num_tokens
        self.spend(num_tokens)


class Admission:
    """
    The `Gate` of a server.

    Queues tenants fairly, counts their tokens, and refuses requests that have crashed the engine.
    """

    def __init__(
        self,
        turns: Turns,
        quarantine: Quarantine,
        *,
        spend: Callable[[str, int], None] = lambda tenant, num_tokens: None,
    ) -> None:
        self.turns = turns
        self._quarantine = quarantine
        self._spend = spend

    @asynccontextmanager
    async def enter(self, work: Work) -> AsyncIterator[Pass]:
        if not work.tenant:  # the engine's own request at its start
            yield AnyTime()
            return
        self._quarantine.check(work)
        num_prompt = len(work.text_ids)
        spent = _spent_by(work)
        async with self.turns.take(
            work.tenant, num_prompt + work.max_tokens, num_places=work.num_answers
        ) as turn:
            self._spend(work.tenant, num_prompt)
            turn.num_tokens = num_prompt
            spent.num_prompt_tokens += num_prompt
            with self._quarantine.watch(work):
                yield Admitted(turn, spent, partial(self._spend, work.tenant))
        spent.num_answers += 1


def _spent_by(work: Work) -> Spent:
    ledger = LEDGER.get()
    return ledger.of(work.adapter) if ledger else Spent()
