"""
What scales inside the layers cost vLLM: ``python -m tests.measure.scales``.

Three arms take turns in one engine over the default backbone: bare, every request with another
adapter that is resident, and every request with another one that is asked for the first time. Each
arm stands between two bare ones, and is told as a ratio to them: requests a CPU second of vLLM's
worker, which a busy machine changes little. Bare requests read the tables too, in the slot that is
nobody's; what they cost without any tables is told with ``--places ''``, in a run of its own.
"""

import argparse
import asyncio
import random
import secrets
import statistics
import sys
from collections.abc import Mapping, Sequence

import psutil
import torch
from transformers import AutoConfig

from galenic_adapters.backbone.weights import ensure, shape_of
from galenic_adapters.factor import Composed, digest_of
from galenic_server.engine.contract import EngineConfig, OpenGate, Request, Sampling, complete
from galenic_server.engine.vllm.engine import VllmEngine

NUM_TEXT, NUM_ANSWER = 110, 32
NUM_REQUESTS, NUM_AT_ONCE = 128, 64
BARE = [None] * NUM_REQUESTS


class Adapters:
    """Random ones by digest, as many as are asked for."""

    def __init__(self, config: object, places: Sequence[str]) -> None:
        self._shapes = {place: shape_of(config).scale_shapes()[place] for place in places}
        self._made = torch.Generator().manual_seed(0)
        self._kept: dict[str, Composed] = {}

    def __call__(self, digests: Sequence[str]) -> Mapping[str, Composed]:
        return {digest: self._kept[digest] for digest in digests}

    def add(self) -> str:
        scales = {
            place: 1 + 0.2 * torch.randn(shape, generator=self._made)
            for place, shape in self._shapes.items()
        }
        digest = digest_of(scales)
        self._kept[digest] = Composed(scales=scales)
        return digest


class Arms:
    def __init__(self, engine: VllmEngine, adapters: Adapters) -> None:
        self._engine = engine
        self._adapters = adapters
        self._random = random.Random(0)
        self.resident = [adapters.add() for _ in BARE]

    def cold(self) -> list[str]:
        return [self._adapters.add() for _ in BARE]

    async def rate(self, digests: Sequence[str | None]) -> float:
        """Requests a CPU second of the worker."""
        turns = asyncio.Semaphore(NUM_AT_ONCE)

        async def ask(digest: str | None) -> None:
            async with turns:
                ids = [self._random.randrange(1000, 40000) for _ in range(NUM_TEXT)]
                sampling = Sampling(NUM_ANSWER, ignore_end=True)
                request = Request(secrets.token_hex(8), "north", ids, sampling, digest)
                await complete(self._engine, request)

        before = _cpu_seconds()
        await asyncio.gather(*map(ask, digests))
        return len(digests) / (_cpu_seconds() - before)


def _cpu_seconds() -> float:
    """Of the worker alone: vLLM's other process spins while it waits for it."""
    below = psutil.Process().children(recursive=True)
    (worker,) = (it for it in below if it.cmdline()[:1] == ["VLLM::Worker"])
    times = worker.cpu_times()
    return times.user + times.system


async def measure_bare(arms: Arms, num_rounds: int) -> None:
    for _ in range(num_rounds + 1):
        tell(f"bare {await arms.rate(BARE):.2f} requests a CPU second")


async def measure(arms: Arms, num_rounds: int) -> None:
    await arms.rate(BARE)
    await arms.rate(arms.resident)
    ratios: dict[str, list[float]] = {"resident": [], "cold": []}
    last = await arms.rate(BARE)
    for _ in range(num_rounds):
        for name, digests in (("resident", arms.resident), ("cold", arms.cold())):
            rate, before = await arms.rate(digests), last
            last = await arms.rate(BARE)
            ratios[name].append(2 * rate / (before + last))
            tell(f"bare {before:.2f} and {last:.2f} requests a CPU second, {name} {rate:.2f}")
    for name, of_rounds in ratios.items():
        told = " ".join(f"{ratio:.3f}" for ratio in of_rounds)
        tell(f"{name}: {statistics.median(of_rounds):.3f} of bare (rounds {told})")


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def run(places: tuple[str, ...], num_rounds: int) -> None:
    backbone = str(ensure(None).path)
    configuration = AutoConfig.from_pretrained(backbone)
    adapters = Adapters(configuration, places)
    config = EngineConfig(
        backbone,
        secret=b"measured",
        num_slots=2048,
        context_tokens=512,
        places=places,
        options={"max_num_seqs": NUM_AT_ONCE},
    )
    engine = VllmEngine(config, adapters, OpenGate())
    await engine.start()
    try:
        how = measure if places else measure_bare
        await how(Arms(engine, adapters), num_rounds)
    finally:
        await engine.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--places", default="of", help="their letters")
    parser.add_argument("--rounds", type=int, default=6)
    asked = parser.parse_args()
    asyncio.run(run(tuple(asked.places), asked.rounds))


if __name__ == "__main__":
    main()
