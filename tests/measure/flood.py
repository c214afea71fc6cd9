"""
What a flood by one tenant does to another: ``python -m tests.measure.flood URL KEY_A KEY_B``.

B asks alone, one request after the other, and again while A keeps many under way, turn by turn; the
figures are B's latencies, how many times slower they are in the flood, and what the engine got done
meanwhile. Requests during which this process itself was held up are asked again, as what they took
says nothing of the server; how often it was held up is said.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx

WARM_UP = 3
"""B's first requests meet an engine that is full of A's, and end that; they are not counted."""
BEAT, HELD_UP = 0.01, 0.05
"""Seconds: how often this process looks whether it runs, and how late is too late."""
NOTE = "The patient was diagnosed with colorectal cancer; his mother had ovarian cancer."


async def measure(
    url: str, flooder: str, other: str, *, rounds: int, count: int, flood: int
) -> str:
    """B's p50 and p99 in seconds, alone and under *flood* requests of A's at a time."""
    limits = httpx.Limits(max_connections=flood + 4)
    alone: list[float] = []
    crowded: list[float] = []
    rates: list[float] = []
    async with (
        httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http,
        _held_up() as holds,
    ):
        for _ in range(rounds):
            alone += await _ask_in_turn(http, other, count, holds)
            async with _flooded(http, flooder, flood) as done:
                await _ask_in_turn(http, other, WARM_UP, holds)
                began = time.perf_counter()
                num_before = len(done)
                crowded += await _ask_in_turn(http, other, count, holds)
                seconds = time.perf_counter() - began
                rates.append((len(done) - num_before + count) / seconds)
    alone, crowded = sorted(alone), sorted(crowded)
    p50, p99 = (_at(crowded, share) / _at(alone, share) for share in (0.5, 0.99))
    return (
        f"{rounds} times {count} requests of B: alone p50 {_at(alone, 0.5):.3f} s, "
        f"p99 {_at(alone, 0.99):.3f} s; under {flood} of A's p50 {_at(crowded, 0.5):.3f} s, "
        f"p99 {_at(crowded, 0.99):.3f} s: {p50:.2f} and {p99:.2f} times; "
        f"meanwhile both {statistics.median(rates):.1f} requests/s; "
        f"this process was held up {len(holds)} times, {max(holds, default=0):.2f} s at most"
    )


@asynccontextmanager
async def _flooded(http: httpx.AsyncClient, key: str, flood: int) -> AsyncIterator[list[float]]:
    """While A keeps *flood* requests under way; yields when each of them ended, as it does."""
    done: list[float] = []
    async with asyncio.TaskGroup() as crowd:
        asking = [crowd.create_task(_ask_for_ever(http, key, done)) for _ in range(flood)]
        yield done
        for task in asking:
            task.cancel()


@asynccontextmanager
async def _held_up() -> AsyncIterator[list[float]]:
    """Yields for how long, each time that it happens, this process's event loop does not run."""
    holds: list[float] = []

    async def look() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(BEAT)
            late = time.perf_counter() - began - BEAT
            if late > HELD_UP:
                holds.append(late)

    async with asyncio.TaskGroup() as beside:
        looking = beside.create_task(look())
        yield holds
        looking.cancel()


async def _ask_in_turn(
    http: httpx.AsyncClient, key: str, count: int, holds: list[float]
) -> list[float]:
    seconds: list[float] = []
    while len(seconds) < count:
        num_holds, began = len(holds), time.perf_counter()
        (await _ask(http, key)).raise_for_status()
        took = time.perf_counter() - began
        await asyncio.sleep(BEAT)  # for a hold that is just over to be seen
        if len(holds) == num_holds:
            seconds.append(took)
    return seconds


async def _ask_for_ever(http: httpx.AsyncClient, key: str, done: list[float]) -> None:
    while True:
        (await _ask(http, key)).raise_for_status()
        done.append(time.perf_counter())


async def _ask(http: httpx.AsyncClient, key: str) -> httpx.Response:
    """No two alike, so that no cache answers."""
    text = f"{time.perf_counter_ns()}: {NOTE}"
    body = {"documents": [{"text": text}], "max_tokens": 24}
    return await http.post("/v1/ner", json=body, headers={"authorization": f"Bearer {key}"})


def _at(seconds: Sequence[float], share: float) -> float:
    return seconds[min(len(seconds) - 1, int(len(seconds) * share))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("url", "flooder", "other"):
        parser.add_argument(name)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--flood", type=int, default=64)
    asked = parser.parse_args()
    figures = measure(
        asked.url,
        asked.flooder,
        asked.other,
        rounds=asked.rounds,
        count=asked.count,
        flood=asked.flood,
    )
    sys.stdout.write(asyncio.run(figures) + "\n")


if __name__ == "__main__":
    main()
