"""
The server's secret, made at its first start.
"""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path


def read_secret(home: Path, given: str | None) -> bytes:
    """The server's secret: *given*, or the file in *home* that the first start makes."""
    if given:
        return given.encode()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = home / "secret"
    if not path.exists():
        # Written whole under another name, and 0600: a second first start reads what this made.
        with tempfile.NamedTemporaryFile(dir=home) as made:
            made.write(secrets.token_bytes(32))
            made.flush()
            with suppress(FileExistsError):
                os.link(made.name, path)
    return path.read_bytes()
