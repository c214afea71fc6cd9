"""
What a flood by one tenant does to another: ``python -m galenic_server.flood URL KEY_A KEY_B``.

B asks alone, one request after the other, then again while A keeps many under way; the figures are
B's latencies, and how many times slower the slowest percent is.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

import httpx

NOTE = "The patient was diagnosed with colorectal cancer; his mother had ovarian cancer."


async def measure(url: str, flooder: str, other: str, *, count: int, flood: int) -> str:
    """B's p50 and p99 in seconds, alone and under *flood* requests of A's at a time."""
    limits = httpx.Limits(max_connections=flood + 4)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        alone = await _ask_in_turn(http, other, count)
        crowd = [asyncio.create_task(_ask_for_ever(http, flooder)) for _ in range(flood)]
        await _ask_in_turn(http, other, 3)  # the first of B's meets a full engine, and ends that
        crowded = await _ask_in_turn(http, other, count)
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
    ratio = _at(crowded, 0.99) / _at(alone, 0.99)
    return (
        f"alone p50 {_at(alone, 0.5):.3f} s, p99 {_at(alone, 0.99):.3f} s; under {flood} of A's "
        f"p50 {_at(crowded, 0.5):.3f} s, p99 {_at(crowded, 0.99):.3f} s: {ratio:.2f} times"
    )


async def _ask_in_turn(http: httpx.AsyncClient, key: str, count: int) -> list[float]:
    seconds = []
    for i in range(count):
        began = time.perf_counter()
        (await _ask(http, key, i)).raise_for_status()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)


async def _ask_for_ever(http: httpx.AsyncClient, key: str) -> None:
    with suppress(httpx.TransportError):
        while True:
            await _ask(http, key, time.perf_counter_ns())


async def _ask(http: httpx.AsyncClient, key: str, number: int) -> httpx.Response:
    """No two alike, so that no cache answers."""
    body = {"documents": [{"text": f"{number}: {NOTE}"}], "max_tokens": 24}
    return await http.post("/v1/ner", json=body, headers={"authorization": f"Bearer {key}"})


def _at(seconds: Sequence[float], share: float) -> float:
    return seconds[min(len(seconds) - 1, int(len(seconds) * share))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("url", "flooder", "other"):
        parser.add_argument(name)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--flood", type=int, default=64)
    asked = parser.parse_args()
    figures = measure(asked.url, asked.flooder, asked.other, count=asked.count, flood=asked.flood)
    sys.stdout.write(asyncio.run(figures) + "\n")


if __name__ == "__main__":
    main()
