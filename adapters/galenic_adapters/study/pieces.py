"""
A study is a folder of pieces. A piece is done once, leaves ``done.json``, and is skipped from then
on; one that was killed goes on from what it keeps itself.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from galenic_adapters.errors import Conflict, NotFound
from galenic_adapters.files import write_whole
from galenic_adapters.training.loop import CHECKPOINT

DONE = "done.json"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Pieces:
    """The pieces below *folder*; those that work here run on *device*."""

    folder: Path
    device: str
    say: Say

    def claim(self, facts: dict[str, Any]) -> None:
        """The folder is for this study; raises `Conflict` where it is for another."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "study.json"
        text = json.dumps(facts, indent=2) + "\n"
        if path.exists() and json.loads(path.read_text("utf-8")) != json.loads(text):
            raise Conflict(f"{self.folder} holds another study; choose another folder")
        path.write_text(text, "utf-8")

    def facts(self) -> dict[str, Any]:
        """What was claimed; raises `NotFound` where nothing was."""
        path = self.folder / "study.json"
        if not path.exists():
            raise NotFound(f"{self.folder} holds no study")
        facts: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return facts

    def path(self, name: str) -> Path:
        return self.folder / name

    def is_done(self, name: str) -> bool:
        return (self.path(name) / DONE).exists()

    def do(self, name: str, work: Callable[[Path], None]) -> None:
        """Let *work* fill the piece's folder, unless it did already."""
        if self.is_done(name):
            return
        began = time.monotonic()
        folder = self.path(name)
        folder.mkdir(parents=True, exist_ok=True)
        self.say(f"{name} ...")
        work(folder)
        seconds = time.monotonic() - began
        done = {"seconds": round(seconds, 1), "device": self.device, "gigabytes": _peak()}
        write_whole(folder / DONE, json.dumps(done).encode() + b"\n")
        (folder / CHECKPOINT).unlink(missing_ok=True)  # of hundreds of LoRAs, gigabytes
        self.say(f"{name}: {seconds:.0f} s")


def _peak() -> float | None:
    """Gigabytes of the GPU's memory that the piece took at most."""
    if not torch.cuda.is_available():
        return None
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return round(peak / 1e9, 1)
