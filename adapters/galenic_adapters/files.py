"""
Files: read as people save them, where a byte order mark says how a text is encoded and is no part
of it; and written whole or not at all.
"""

import codecs
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from galenic_adapters.errors import BadInput

MARK = "\ufeff"
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def bytes_of(path: Path) -> bytes:
    """The file's bytes; raises `BadInput`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(path.name, f"cannot be read: {error.strerror or error}") from error


def text_of(path: Path) -> str:
    """The file's text without its mark, its line ends as they are; raises `BadInput`."""
    return decoded(path.name, bytes_of(path)).removeprefix(MARK)


def decoded(field: str, data: bytes) -> str:
    """
    *data* as UTF-8, or as UTF-16 where its mark says so; raises `BadInput`. The mark of UTF-8
    stays, since offsets may count it.
    """
    encoding = "utf-16" if data.startswith(UTF16_MARKS) else "utf-8"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadInput(field, f"is not {encoding.upper()} at byte {error.start}") from error


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """
    The lines of *text*, numbered from 1, without their ends, and without the marks that stand
    inside of files which were put together.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        yield number, line.removesuffix("\r").removeprefix(MARK)


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
