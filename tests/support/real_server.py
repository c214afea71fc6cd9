"""
A server as its users start it: a process of its own, the default backbone, real vLLM, the zoo.

Dimension key:  L layers   W width of an activation
"""

import math
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch

from galenic_adapters.backbone import weights as backbone
from galenic_adapters.factor import Factor, Metaprompt
from galenic_adapters.package import zoo
from galenic_adapters.package.file import Fit, Package
from galenic_adapters.package.manifest import BackboneId, Manifest
from galenic_adapters.tasks.base import TaskName
from galenic_client import AsyncClient, Client
from galenic_client.types import NliAnswer, Reply
from galenic_server.settings import Settings
from tests.support.serving import free_port

ADMIN_KEY = "the-admin-key-of-all-the-tests-here"
START_SECONDS = 600  # a first start compiles, and CI's two cores are slow
POLL_SECONDS = 0.2
SAMPLE = re.compile(r"(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")


@dataclass
class RealServer:
    """A process, and ways to talk to it; *api_key* is a caller's, of the tenant North."""

    url: str
    process: psutil.Popen
    log: Path
    api_key: str = ""

    def client(self, **options: Any) -> Client:
        return Client(self.url, api_key=self.api_key, **options)

    def async_client(self, **options: Any) -> AsyncClient:
        return AsyncClient(self.url, api_key=self.api_key, **options)

    def admin(self) -> Client:
        return Client(self.url, api_key=ADMIN_KEY)

    def async_admin(self) -> AsyncClient:
        return AsyncClient(self.url, api_key=ADMIN_KEY)

    def http(self, key: str | None = None) -> httpx.Client:
        """Plain HTTP, for what the client would not send."""
        bearer = {"authorization": f"Bearer {key or self.api_key}"}
        return httpx.Client(base_url=self.url, headers=bearer, timeout=300)

    def wait(self, *, ready: bool = True) -> None:
        """Until it says that it is ready, or that it is not."""
        end = time.monotonic() + START_SECONDS
        with self.client(retries=0) as client:
            while client.is_ready() != ready:
                assert self.process.poll() is None, self.said()[-4000:]
                assert time.monotonic() < end, self.said()[-4000:]
                time.sleep(POLL_SECONDS)

    def said(self) -> str:
        """Everything that the server and its engine wrote so far."""
        return self.log.read_text(errors="replace")

    def metric(self, name: str, **labels: str) -> float:
        """A metric as it stands now, summed over all samples that have these labels."""
        page = httpx.get(f"{self.url}/metrics", timeout=60).text
        found = [match for line in page.splitlines() if (match := SAMPLE.fullmatch(line))]
        wanted = {f'{label}="{value}"' for label, value in labels.items()}
        return sum(
            float(match["value"])
            for match in found
            if match["name"] == name and wanted <= set((match["labels"] or "").split(","))
        )

    def core(self) -> psutil.Process:
        """The engine's own process."""
        (core,) = (one for one in self.process.children() if "EngineCor" in one.name())
        return core


@contextmanager
def real_server(folder: Path, **settings: object) -> Iterator[RealServer]:
    """A ready server with its home in *folder*; *settings* as the environment names them."""
    port, log = free_port(), folder / "server.log"
    given = {"home": folder / "home", "port": port, "admin_key": ADMIN_KEY} | settings
    environment = os.environ | {f"GALENIC_{k.upper()}": str(v) for k, v in given.items()}
    with log.open("wb") as out:
        process = psutil.Popen(
            [sys.executable, "-m", "galenic_server"], env=environment, stdout=out, stderr=out
        )
    server = RealServer(f"http://127.0.0.1:{port}", process, log)
    try:
        server.wait()
        with server.admin() as admin:
            server.api_key = admin.create_key("north").key
        yield server
    finally:
        _end(process)


def _end(process: psutil.Popen) -> None:
    """As an operator would; whatever is left of its family after that goes too."""
    family = process.children(recursive=True)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(90)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait()
    for left in psutil.wait_procs(family, timeout=10)[1]:
        left.kill()


SAME_ODDS = 3e-4  # in float32; adapters lie some tenths apart


def odds_of_yes(reply: Reply[NliAnswer]) -> list[float]:
    """
    The log-odds of "yes" to an adapter that says yes or no: its fingerprint, finer than any label.
    """
    assert all(answer.reading == "clean" for answer in reply.documents)
    pairs = [(answer.label == "yes", answer.confidence) for answer in reply.documents]
    assert all(confidence is not None and 0 < confidence < 1 for _, confidence in pairs), pairs
    return [math.log(p / (1 - p)) * (1 if is_yes else -1) for is_yes, p in pairs]


@dataclass(frozen=True)
class Zoo:
    """What ships for the default backbone."""

    backbone: backbone.Backbone
    metaprompt: Metaprompt
    fit: Fit
    packages: dict[str, Package]

    @classmethod
    def shipped(cls) -> "Zoo":
        found, root = backbone.ensure(), Settings().zoo
        id_ = BackboneId(name=found.name, revision=found.revision)
        files = sorted(zoo.folder_of(root, id_).glob("*.safetensors"))
        packages = {
            file.stem: Package.read(file.read_bytes())
            for file in files
            if not zoo.is_metaprompt(file)
        }
        fit = Fit(id_, zoo.metaprompts_of(id_, zoo=root), backbone.shape_at(found.path))
        return cls(found, zoo.metaprompt_of(id_, zoo=root), fit, packages)

    def random_factor(self, seed: int, spread: float = 0.1) -> Factor:
        """Scales around one, as distinct as their seed."""
        made = torch.Generator().manual_seed(seed)
        return Factor(
            scales={
                place: 1 + spread * torch.randn(shared_LW.shape, generator=made)
                for place, shared_LW in self.metaprompt.scales.items()
            }
        )

    def random_package(
        self,
        seed: int,
        *,
        task: str = "nli",
        labels: tuple[str, ...] = ("yes", "no"),
        **but: Any,
    ) -> Package:
        """A package that this server takes, unless *but* changes its manifest."""
        factor = self.random_factor(seed)
        facts = {"task": TaskName(task), "labels": labels, "shapes": factor.shapes}
        return Package.write(self.manifest(**(facts | but)), factor)

    def manifest(self, **but: Any) -> Manifest:
        facts = {
            "name": "random",
            "template_version": 1,
            "backbone": BackboneId(name=self.backbone.name, revision=self.backbone.revision),
            "metaprompt": self.metaprompt.digest,
            "dtype": "float32",
            "licence": "Apache-2.0",
            "created": date(2026, 1, 1),
        }
        return Manifest(**(facts | but))
