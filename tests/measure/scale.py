"""
What 100,000 adapters take: ``python -m tests.measure.scale``.

A real server over the default backbone and SQLite: how long it loads them at its start, the bytes
of each; 10,000 uploads in one stream, and single uploads until they are servable. And the tables of
an 8B backbone's shape, filled.

Dimension key:  P prompt positions   D model width
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from safetensors.torch import load, save
from torch import nn

from galenic_adapters.factor import Factor
from galenic_adapters.package.file import Package
from galenic_adapters.tasks.base import TaskName
from galenic_client.types import ToPush
from galenic_server.engine.slots import Place, Seated
from galenic_server.engine.vllm.embedding import Layout, PromptedEmbedding
from galenic_server.engine.vllm.worker import messages, pack
from galenic_server.registry.offers import Candidate
from galenic_server.registry.store import Store
from tests.support.real_server import RealServer, Zoo, real_server

TENANT = "scale"
WRITTEN_AT_ONCE = 1000


def packages(zoo: Zoo, num: int, seed: int) -> Iterator[Package]:
    """Distinct adapters of rank 1 in the default backbone's 16 bits."""
    labels = ("yes", "no")
    manifest = zoo.manifest(rank=1, task=TaskName.NLI, labels=labels, dtype="bfloat16")
    metadata = {"galenic": manifest.model_dump_json()}
    made = torch.Generator().manual_seed(seed)
    P, D = zoo.metaprompt.rows_PD.shape
    for _ in range(num):
        u_PR = (torch.randn(P, 1, generator=made) * 0.5 + 1).bfloat16()
        v_RD = (torch.randn(1, D, generator=made) * 0.5 + 1).bfloat16()
        data = save({"u": u_PR, "v": v_RD}, metadata=metadata)
        yield Package(manifest, Factor(u_PR, v_RD), data)


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
    assert resident >= num, f"{resident} of {num} are resident"
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


def tables(positions: int, width: int, num: int) -> None:
    """An embedding's tables alone, loaded as a worker loads them."""
    layout = Layout(positions, num, num_components=num, max_rank=16)
    base = nn.Embedding(1, width, dtype=torch.bfloat16)
    before = psutil.Process().memory_info().rss
    embed = PromptedEmbedding(base, layout, vocab_size=1, width=width, dtype=torch.bfloat16)
    pool = (embed.next_C, embed.u_CP, embed.v_CD)
    num_bytes = embed.first_S.nbytes + sum(table[1:].nbytes for table in pool)
    factor = Factor(torch.randn(positions, 1).bfloat16(), torch.randn(1, width).bfloat16())
    seated: list[Seated] = [(Place(i, (i + 1,)), factor) for i in range(num)]
    began = time.perf_counter()
    for part in messages(seated, torch.bfloat16):
        embed.load(load(pack(part, torch.bfloat16)))
    seconds = time.perf_counter() - began
    share = num_bytes / num / (2 * (positions + width))
    grown = psutil.Process().memory_info().rss - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    tell(f"tables of {num:,}, P={positions}, D={width}", f"{num_bytes >> 20:,} MB")
    tell("  bytes an adapter against 2 R (P + D)", f"{share:.4f} (at most 1.05)")
    tell("  packed and written in", f"{seconds:.1f} s, {grown >> 20:,} MB more (peak {peak:,} MB)")


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
    for positions, width in (zoo.metaprompt.rows_PD.shape, (100, 4096)):
        tables(positions, width, asked.adapters)


if __name__ == "__main__":
    main()
