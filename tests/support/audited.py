"""
What a running server wrote into its audit chain.
"""

from typing import Any

from tests.support.serving import Running, eventually


def rows(running: Running, **wanted: Any) -> list[dict[str, Any]]:
    """The records that have these values, in order."""
    told = (record for record, _ in running.parts.trail.chain.rows())
    return [one for one in told if wanted.items() <= one.items()]


def waited(running: Running, count: int, **wanted: Any) -> list[dict[str, Any]]:
    eventually(lambda: len(rows(running, **wanted)) >= count, seconds=20)
    return rows(running, **wanted)
