"""
Files that are written whole or not at all.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from galenic_adapters.errors import BadInput


def write_whole(path: Path, data: bytes | Iterable[bytes]) -> None:
    """
    Write *data* beside *path* and move it there once it is complete.

    Whatever goes wrong, *path* stays as it was. Raises `BadInput` where it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            for piece in (data,) if isinstance(data, bytes) else data:
                file.write(piece)
        part.replace(path)
    except OSError as error:
        raise BadInput(str(path), f"cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # moved by now, or never made
            part.unlink()
