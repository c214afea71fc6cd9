"""
Runs a study as a folder of pieces, each of them once.

A finished piece leaves ``done.json`` and is skipped from then on. A killed one resumes from its own
checkpoint.
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
from galenic_adapters.progress import Say
from galenic_adapters.training.loop import CHECKPOINT

DONE = "done.json"


@dataclass(frozen=True, slots=True)
class Pieces:
    """Runs the pieces below *folder*; *device* is recorded with each."""

    folder: Path
    device: str
    say: Say

    def claim(self, facts: dict[str, Any]) -> None:
        """Reserve the folder for the study of *facts*; raises `Conflict` if it holds another."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "study.json"
        text = json.dumps(facts, indent=2) + "\n"
        if path.exists() and json.loads(path.read_text("utf-8")) != json.loads(text):
            raise Conflict(f"{self.folder} holds another study; choose another folder")
        path.write_text(text, "utf-8")

    def facts(self) -> dict[str, Any]:
        """Return the claimed study's facts; raises `NotFound` if the folder holds no study."""
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
        """Run *work* on the piece's folder, unless the piece is done."""
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
        (folder / CHECKPOINT).unlink(missing_ok=True)  # hundreds of LoRAs take gigabytes
        self.say(f"{name}: {seconds:.0f} s")


def _peak() -> float | None:
    """Return the piece's peak GPU memory in gigabytes (None on a CPU), and reset the counter."""
    if not torch.cuda.is_available():
        return None
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return round(peak / 1e9, 1)
