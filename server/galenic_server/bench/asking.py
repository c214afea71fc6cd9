"""
Runs a round: sends prompts to one arm, and times every answer.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from galenic_server.bench.workload import Prompt
from galenic_server.engine.contract import Delta, Engine, Request, Sampling

Speaker = Callable[[Prompt], AsyncIterator[Delta]]


@dataclass(slots=True)
class Round:
    """
    Holds one arm's measurements in one round.

    first, last, tokens, adapters: one entry per request: seconds to its first and last token, its
    number of tokens, its adapter.   queries, hits: prompt tokens looked up in the cache, and found.
    """

    part: str
    arm: str
    number: int
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    queries: int = 0
    hits: int = 0

    @property
    def measures(self) -> dict[str, float]:
        """Return all metrics of the round by name; times are in seconds."""
        first, last, tokens = (np.array(times) for times in (self.first, self.last, self.tokens))
        each = (last - first) / np.maximum(tokens - 1, 1)
        found = {
            "requests/s": len(first) / self.seconds,
            "tokens/s": float(tokens.sum()) / self.seconds,
            "within 6 s": float((first <= 6).mean()),
            "hit ratio": self.hits / self.queries if self.queries else 0.0,
            "worst adapter's p99": self._worst_p99(),
        }
        for name, values in (("TTFT", first), ("TPOT", each)):
            for share in (50, 90, 99):
                found[f"{name} p{share}"] = float(np.percentile(values, share))
        return found

    def _worst_p99(self) -> float:
        by_adapter: dict[str, list[float]] = {}
        for adapter, last in zip(self.adapters, self.last, strict=True):
            by_adapter.setdefault(adapter, []).append(last)
        return max(float(np.percentile(seconds, 99)) for seconds in by_adapter.values())


def of_engine(engine: Engine) -> Speaker:
    def speak(prompt: Prompt) -> AsyncIterator[Delta]:
        is_free = prompt.constraint is None
        sampling = Sampling(max_tokens=prompt.num_tokens, ignore_end=is_free)
        return engine.generate(
            Request(
                id=secrets.token_hex(8),
                tenant=prompt.tenant,
                text_ids=prompt.text_ids,
                sampling=sampling,
                adapter=prompt.adapter,
                constraint=prompt.constraint,
            )
        )

    return speak


async def ask_all(
    speak: Speaker, prompts: Sequence[Prompt], concurrency: int, into: Round
) -> Round:
    """
    Send each prompt at its arrival time or, without one, at most *concurrency* at a time.

    Times are measured from when a prompt is sent.
    """
    turns = asyncio.Semaphore(concurrency)
    began = time.perf_counter()

    async def ask(prompt: Prompt) -> tuple[float, float, int, str]:
        if prompt.start is not None:
            await asyncio.sleep(began + prompt.start - time.perf_counter())
            return await _ask(speak, prompt)
        async with turns:
            return await _ask(speak, prompt)

    answers = await asyncio.gather(*map(ask, prompts))
    into.seconds = time.perf_counter() - began
    for first, last, tokens, adapter in answers:
        into.first.append(round(first, 5))
        into.last.append(round(last, 5))
        into.tokens.append(tokens)
        into.adapters.append(adapter)
    return into


async def _ask(speak: Speaker, prompt: Prompt) -> tuple[float, float, int, str]:
    began, first, tokens = time.perf_counter(), 0.0, 0
    async for delta in speak(prompt):
        first = first or time.perf_counter() - began
        tokens += delta.num_tokens
    return first, time.perf_counter() - began, tokens, prompt.adapter or "bare"
