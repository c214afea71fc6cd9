"""
Unpacks data sets: a folder in a zip or tar archive, or one gzipped file.

Archives are untrusted. Their unpacked size is bounded, and only plain files inside the target
folder are written, so neither links nor paths lead out of it.
"""

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from galenic_adapters.errors import BadInput

MAX_BYTES = 4 * 2**30
MAX_FILES = 200_000
CHUNK_BYTES = 2**20
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
BROKEN = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, RuntimeError)


@contextmanager
def unpacked(path: Path, *, max_bytes: int = MAX_BYTES) -> Iterator[Path]:
    """
    Yield *path*, or for an archive a temporary folder with its files (or its only file).

    Raises `BadInput` if the archive is damaged, locked or too large, or names a path outside.
    """
    if path.is_dir() or not path.name.lower().endswith((".zip", ".gz", *TARS)):
        yield path
        return
    with TemporaryDirectory() as name:
        folder = Path(name).resolve()
        try:
            _unpack(path, folder, max_bytes)
        except BROKEN as error:  # zipfile raises RuntimeError if a password is needed
            raise BadInput(path.name, f"cannot be unpacked: {error}"[:200]) from error
        found = list(folder.iterdir())
        is_one_file = len(found) == 1 and found[0].is_file()
        yield found[0] if is_one_file else folder


def _unpack(path: Path, folder: Path, max_bytes: int) -> None:
    num_bytes = 0
    for number, (name, file) in enumerate(_files(path), start=1):
        target = (folder / name).resolve()
        if not target.is_relative_to(folder):
            raise BadInput(path.name, "holds a path that leads out of it")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as into:
            while chunk := file.read(CHUNK_BYTES):
                num_bytes += into.write(chunk)
                if num_bytes > max_bytes or number > MAX_FILES:
                    most = f"{max_bytes} bytes or {MAX_FILES} files"
                    raise BadInput(path.name, f"unpacks to more than {most}")


def _files(path: Path) -> Iterator[tuple[str, IO[bytes] | gzip.GzipFile]]:
    """Yield the plain files of an archive with their names; each is valid until the next."""
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    with archive.open(info) as file:
                        yield info.filename, file
    elif path.name.lower().endswith(TARS):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and (found := tar.extractfile(member)):
                    yield member.name, found
    else:
        with gzip.open(path) as alone:
            yield path.stem, alone
