"""
What 100,000 adapters take: ``python -m tests.measure.scale``.

A real server over the default backbone and SQLite: how long it loads at its start what it has room
for; 10,000 uploads in one stream, and single uploads until they are servable.

Dimension key:  P prompt positions   D model width
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save

from galenic_adapters.factor import Factor
from galenic_adapters.package.file import Package
from galenic_adapters.tasks.base import TaskName
from galenic_client.types import ToPush
from galenic_server.registry.offers import Candidate
from galenic_server.registry.store import Store
from tests.support.real_server import RealServer, Zoo, real_server

TENANT = "scale"
WRITTEN_AT_ONCE = 1000


def packages(zoo: Zoo, num: int, seed: int) -> Iterator[Package]:
    """Distinct adapters that scale every layer, in 16 bits; checks are left out, they take long."""
    labels = ("yes", "no")
    for number in range(num):
        drawn = zoo.random_factor(seed=seed * num + number).tensors
        factor = Factor.of({name: tensor.half() for name, tensor in drawn.items()})
        facts = {"shapes": factor.shapes, "task": TaskName.NLI, "labels": labels}
        manifest = zoo.manifest(**facts, dtype="float16")
        data = save(factor.tensors, metadata={"galenic": manifest.model_dump_json()})
        yield Package(manifest, factor, data)


def tell(name: str, figure: str) -> None:
    sys.stdout.write(f"  {name:<52} {figure}\n")
    sys.stdout.flush()


def fill(home: Path, zoo: Zoo, num: int) -> None:
    home.mkdir()
    store = Store.open(f"sqlite:///{home / 'galenic.db'}")
    wanted: list[Candidate] = []
    for i, package in enumerate(packages(zoo, num, seed=0), 1):
        wanted.append(Candidate(f"a-{i:06}", package))
        if len(wanted) == WRITTEN_AT_ONCE or i == num:
            store.versions.publish_many(TENANT, wanted)
            wanted.clear()
    store.close()


def start(server: RealServer, num: int) -> None:
    told = [line for line in server.said().splitlines() if "adapters loaded" in line]
    event = json.loads(told[0]) if told and told[0].startswith("{") else {}
    tell("start-up load", f"{event.get('seconds', told)} s (at most 30)")
    resident = server.metric("galenic_resident_adapters")
    tell("resident then", f"{resident:,} of {num:,}")
    core, process = server.core().memory_info().rss, server.process.memory_info().rss
    tell("resident memory: engine core, server", f"{core >> 20:,} MB, {process >> 20:,} MB")


def bulk(server: RealServer, zoo: Zoo, num: int) -> None:
    made = [ToPush(f"b-{i:06}", one.data) for i, one in enumerate(packages(zoo, num, seed=1))]
    with server.admin() as admin:
        began = time.perf_counter()
        told = list(admin.push_many(made, tenant=TENANT))
        seconds = time.perf_counter() - began
        assert ["new"] * num == [one.state for one in told]
        tell(f"{num:,} uploads in one stream", f"{seconds:.1f} s, {num / seconds:,.0f} a second")
        began = time.perf_counter()
        told = list(admin.push_many(made, tenant=TENANT))
        assert ["there"] * num == [one.state for one in told]
        tell("the same again", f"{time.perf_counter() - began:.1f} s")


def singles(server: RealServer, zoo: Zoo, num: int) -> None:
    """Answered means seated: the engine has the factor when the reply is sent."""
    seconds, loads = [], server.metric("galenic_slot_loads_total")
    with server.admin() as admin:
        for i, one in enumerate(packages(zoo, num, seed=2)):
            began = time.perf_counter()
            admin.push(f"c-{i:06}", one.data, tenant=TENANT)
            seconds.append(time.perf_counter() - began)
    assert num == server.metric("galenic_slot_loads_total") - loads
    seconds.sort()
    p50, p99 = (seconds[int(num * share)] * 1000 for share in (0.5, 0.99))
    tell("an upload until it is servable", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms (50, 500)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=100_000)
    parser.add_argument("--bulk", type=int, default=10_000)
    parser.add_argument("--singles", type=int, default=300)
    parser.add_argument("--eager", action="store_true", help="no compilation")
    asked = parser.parse_args()
    zoo = Zoo.shipped()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        fill(folder / "home", zoo, asked.adapters)
        tell(f"{asked.adapters:,} adapters written", f"{time.perf_counter() - began:.1f} s")
        settings = {"max_adapters": 10**9, "enforce_eager": asked.eager}
        with real_server(folder, **settings) as server:
            start(server, asked.adapters)
            bulk(server, zoo, asked.bulk)
            singles(server, zoo, asked.singles)


if __name__ == "__main__":
    main()
