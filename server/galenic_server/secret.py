"""
Reads the server's secrets. The first one signs and hashes; the others, from before, still verify.
"""

import os
import secrets
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from galenic_adapters.errors import BadInput

LEAST_BYTES = 32
LEAST_DIFFERENT = 8  # bytes of a text that nobody typed by holding a key down


def read_secrets(home: Path, given: str | None) -> tuple[bytes, ...]:
    """
    Return the secrets in *given*, or those in *home*: ``secret`` and any ``secret.old…``.

    The first start creates one. Raises `BadInput` for one that is weak, or that others can read.
    """
    if given:
        return tuple(text.encode() for text in parts_of("GALENIC_SECRET", given))
    first = home / "secret"
    if not first.exists():
        _create(first)
    return tuple(_read(path) for path in (first, *sorted(home.glob("secret.old*"))))


def parts_of(name: str, text: str) -> Sequence[str]:
    """Split *text* at commas; raises `BadInput` for a part that somebody could guess."""
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        check_strength(name, part.encode())
    return parts


def check_strength(name: str, secret: bytes) -> None:
    """Raise `BadInput` if *secret* is short or of few different bytes."""
    if len(secret) < LEAST_BYTES or len(set(secret)) < LEAST_DIFFERENT:
        raise BadInput(
            name,
            f"has {len(secret)} bytes, {len(set(secret))} of them different; at least"
            f" {LEAST_BYTES} and {LEAST_DIFFERENT} are needed: openssl rand -hex 32 makes some",
        )


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Written under another name (mode 0600) and linked, so that of two servers which start at the
    # same time, one makes the secret and the other reads it whole.
    with tempfile.NamedTemporaryFile(dir=path.parent) as made:
        made.write(secrets.token_bytes(LEAST_BYTES))
        made.flush()
        os.fsync(made.fileno())
        with suppress(FileExistsError):
            os.link(made.name, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def keep_private(home: Path) -> None:
    """Take every other user's access away from the files in *home*, as far as they are ours."""
    for path in home.iterdir():
        with suppress(OSError):
            path.chmod(path.stat().st_mode & ~stat.S_IRWXO)


def _read(path: Path) -> bytes:
    if path.stat().st_mode & stat.S_IRWXO:
        raise BadInput(str(path), "can be read or written by every user; chmod 600 it")
    secret = path.read_bytes()
    check_strength(str(path), secret)
    return secret
