"""
Counts refusals, so that a flood of them leaves a few audit rows and not one each.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from galenic_server.audit.chain import Record

KIND = ("tenant", "actor", "action", "outcome", "source")
WINDOW_SECONDS = 60.0
MOST_KINDS = 500


@dataclass(slots=True)
class Window:
    """Holds the last refusal of a kind, and how many followed the first."""

    until: float
    last: Record
    num_more: int = 0


class Refusals:
    """
    Writes the first refusal of a kind at once, and the number of those that followed in a minute.

    A kind is who was refused what, and how. Beyond `MOST_KINDS` in a minute, only outcomes are
    told apart.
    """

    def __init__(
        self, write: Callable[[Record], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._windows: dict[tuple[object, ...], Window] = {}

    def add(self, record: Record) -> None:
        kind = tuple(record.get(name) for name in KIND)
        if kind not in self._windows and len(self._windows) >= MOST_KINDS:
            record = {"action": "refuse_others", "outcome": record["outcome"]}
            kind = tuple(record.values())
        window = self._windows.get(kind)
        if window is None:
            self._windows[kind] = Window(self._clock() + WINDOW_SECONDS, record)
            self._write(record)
        else:
            window.last, window.num_more = record, window.num_more + 1

    def settle(self, *, all_of_them: bool = False) -> None:
        """Write the counts of windows that are over."""
        now = self._clock()
        over = [kind for kind, it in self._windows.items() if all_of_them or it.until <= now]
        for window in map(self._windows.pop, over):
            if window.num_more:
                self._write(window.last | {"count": window.num_more})
