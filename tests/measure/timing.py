"""
Whether time tells a tenant what another has: ``python -m tests.measure.timing``.

One server over vLLM and a tiny backbone. Compared, in pairs of requests in random order:

- time to the first token of a text that another tenant has just asked, and of one that nobody has;
- the same for a text that one has asked oneself, which has to be told: so the test can see a cache;
- time to the 404 for another tenant's adapter, and for one that nobody has.

Each with the two-sample Kolmogorov-Smirnov statistic, and how often a random split of the same
times has one as large.
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray

from tests.measure.fleet import KIND, environment, replica
from tests.support.serving import package

NUM_PAIRS = 400
NUM_SPLITS = 5000
NUM_CHARACTERS = 1500  # a token each: 46 blocks of the cache

Times = NDArray[np.float64]


def largest_gap(one: Times, other: Times) -> float:
    """The Kolmogorov-Smirnov statistic: how far the two distributions lie apart at most."""
    at = np.concatenate([one, other])
    shares = [
        np.searchsorted(np.sort(times), at, side="right") / len(times) for times in (one, other)
    ]
    return float(np.abs(shares[0] - shares[1]).max())


def chance(one: Times, other: Times) -> float:
    """How often a random split of all these times has a gap as large."""
    draw, both, found = (
        np.random.default_rng(0),
        np.concatenate([one, other]),
        largest_gap(one, other),
    )
    splits = (np.split(draw.permutation(both), [len(one)]) for _ in range(NUM_SPLITS))
    num_as_large = sum(largest_gap(*split) >= found for split in splits)
    return (num_as_large + 1) / (NUM_SPLITS + 1)


def told(name: str, one: Times, other: Times) -> None:
    p50 = [float(np.median(times)) * 1000 for times in (one, other)]
    sys.stdout.write(
        f"{name}: p50 {p50[0]:.2f} and {p50[1]:.2f} ms, KS {largest_gap(one, other):.3f},"
        f" p = {chance(one, other):.4f} ({len(one)} each)\n"
    )


def paired(*acts: Callable[[int], float]) -> Iterator[Times]:
    """The times of two acts, done in pairs, the first of them by lot."""
    draw, times = random.Random(0), np.zeros((2, NUM_PAIRS))
    for i in range(NUM_PAIRS):
        for which in draw.sample((0, 1), 2):
            times[which, i] = acts[which](i)
    return iter(times)


def text(kind: str, i: int) -> str:
    """One that begins as no other does."""
    draw = random.Random(f"{kind} {i}")
    return "".join(draw.choices("abcdefghij klmnop", k=NUM_CHARACTERS))


def seconds_to_first_token(at: httpx.Client, content: str) -> float:
    body = {
        "model": "tiny-llama",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 2,
        "stream": True,
    }
    began = time.perf_counter()
    with at.stream("POST", "/v1/chat/completions", json=body) as reply:
        for line in reply.iter_lines():
            if '"content":"' in line.replace(" ", "") and '"content":""' not in line:
                return time.perf_counter() - began
    return time.perf_counter() - began  # its first token had no letter


def seconds_to_refusal(at: httpx.Client, adapter: str) -> float:
    body = {"documents": [{"text": "a"}], "max_tokens": 1, "adapter": adapter}
    began = time.perf_counter()
    reply = at.post("/v1/ner", json=body)
    assert 404 == reply.status_code, reply.text
    return time.perf_counter() - began


@contextmanager
def tenants(admin: httpx.Client) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    def key(tenant: str) -> dict[str, str]:
        made = admin.post("/admin/v1/keys", json={"tenant": tenant}).raise_for_status()
        return {"authorization": f"Bearer {made.json()['key']}"}

    url = admin.base_url
    with (
        httpx.Client(base_url=url, headers=key("north"), timeout=60) as north,
        httpx.Client(base_url=url, headers=key("south"), timeout=60) as south,
    ):
        yield north, south


def first_tokens(north: httpx.Client, south: httpx.Client) -> None:
    def asked_by(who: httpx.Client, kind: str) -> Callable[[int], float]:
        def act(i: int) -> float:
            seconds_to_first_token(who, text(kind, i))
            return seconds_to_first_token(south, text(kind, i))

        return act

    def new(kind: str) -> Callable[[int], float]:
        def act(i: int) -> float:
            seconds_to_first_token(north, text(f"{kind} of North's", i))  # as much to do before
            return seconds_to_first_token(south, text(kind, i))

        return act

    told("first token, asked by another or by nobody", *paired(asked_by(north, "a"), new("b")))
    told("first token, asked by oneself or by nobody", *paired(asked_by(south, "c"), new("d")))


def refusals(admin: httpx.Client, south: httpx.Client) -> None:
    for i in range(NUM_PAIRS):
        data = package(seed=i).data
        params = {"tenant": "north"}
        url = f"/admin/v1/adapters/north-{i:03}"
        admin.put(url, params=params, content=data, headers=KIND).raise_for_status()
    told(
        "404, another's adapter or nobody's",
        *paired(
            lambda i: seconds_to_refusal(south, f"north-{i:03}"),
            lambda i: seconds_to_refusal(south, f"nouns-{i:03}"),
        ),
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        given = environment(folder, engine="vllm")
        database = f"sqlite:///{folder / 'galenic.db'}"
        with replica(given, folder / "a", database) as admin, tenants(admin) as (north, south):
            first_tokens(north, south)
            refusals(admin, south)


if __name__ == "__main__":
    main()
