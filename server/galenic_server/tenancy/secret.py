"""
Reads the server's secret, which is made at the first start.
"""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path


def read_secret(home: Path, given: str | None) -> bytes:
    """Return *given*, or the secret in *home*, which the first start creates."""
    if given:
        return given.encode()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = home / "secret"
    if not path.exists():
        # Written under another name (mode 0600) and linked, so that of two servers which start at
        # the same time, one makes the secret and the other reads it whole.
        with tempfile.NamedTemporaryFile(dir=home) as made:
            made.write(secrets.token_bytes(32))
            made.flush()
            with suppress(FileExistsError):
                os.link(made.name, path)
    return path.read_bytes()
