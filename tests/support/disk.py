"""A disk that runs full: a small file system of its own."""

import errno
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Disk:
    """At *folder*; `fill` leaves not a byte on it, and `free` gives back what that took."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        try:
            with self._filler.open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC

    def free(self) -> None:
        self._filler.unlink()


@contextmanager
def small_disk(num_mib: int) -> Iterator[Disk]:
    """A tmpfs of *num_mib*, where a database's own account comes too; skips where none can be."""
    folder = Path(tempfile.mkdtemp(prefix="galenic-disk-", dir="/tmp"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={num_mib}m,mode=0755", "galenic", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes root")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()
