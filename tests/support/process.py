"""The server as a process of its own, from settings in the environment, over a tiny backbone."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from galenic_adapters.package.file import write_metaprompt
from tests.support.serving import free_port, metaprompt, package
from tests.support.tiny_models import tiny_llama

KEY = re.compile(r"gal_[A-Za-z0-9_-]{43}")


@dataclass
class Process:
    url: str
    running: subprocess.Popen[str]
    log: Path

    def said(self) -> str:
        return self.log.read_text()

    def stop(self) -> int:
        self.running.send_signal(signal.SIGTERM)
        return self.running.wait(timeout=300)


def environment_in(tmp_path: Path) -> dict[str, str]:
    """A home, a tiny backbone, and a zoo of one adapter for it."""
    backbone = tmp_path / "tiny-llama"
    tiny_llama(backbone)
    (backbone / "galenic-backbone.json").write_text('{"name": "tiny-llama", "revision": "0"}')
    zoo = tmp_path / "zoo" / "tiny-llama"
    zoo.mkdir(parents=True)
    (zoo / "metaprompt.safetensors").write_bytes(write_metaprompt(metaprompt()))
    (zoo / "diseases.safetensors").write_bytes(package().data)
    return os.environ | {
        "GALENIC_HOME": str(tmp_path / "home"),
        "GALENIC_BACKBONE": str(backbone),
        "GALENIC_ENGINE": "transformers",
        "GALENIC_ZOO": str(zoo.parent),
    }


@contextmanager
def started(environment: dict[str, str], tmp_path: Path) -> Iterator[Process]:
    port = free_port()
    log = tmp_path / f"{port}.log"
    with log.open("w") as out:
        running = subprocess.Popen(
            [sys.executable, "-m", "galenic_server"],
            env=environment | {"GALENIC_PORT": str(port)},
            stdout=out,
            stderr=out,
            text=True,
        )
    process = Process(f"http://127.0.0.1:{port}", running, log)
    try:
        yield process
    finally:
        running.kill()
        running.wait()


def is_ready(process: Process) -> bool:
    assert process.running.poll() is None, process.said()
    try:
        return httpx.get(f"{process.url}/health/ready").is_success
    except httpx.TransportError:
        return False
