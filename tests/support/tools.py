"""The programs of `.venv-tools`, which `make docs`, `make sbom` and `make audit` run."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def tools() -> Path:
    """Return their folder; sets it up if they are missing or not the pinned ones."""
    subprocess.run([ROOT / "deploy/setup-tools"], check=True)
    return ROOT / ".venv-tools"
