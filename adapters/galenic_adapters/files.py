"""
Reads text files in the encodings that people save, and writes files atomically.

A byte order mark selects the encoding and is no part of the text.
"""

import codecs
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from galenic_adapters.errors import BadInput

MARK = "\ufeff"
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def bytes_of(path: Path) -> bytes:
    """Read the file's bytes; raises `BadInput`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(path.name, f"cannot be read: {error.strerror or error}") from error


def text_of(path: Path) -> str:
    """Read the file's text without a byte order mark; line ends are kept. Raises `BadInput`."""
    return decoded(path.name, bytes_of(path)).removeprefix(MARK)


def decoded(field: str, data: bytes) -> str:
    """
    Decode *data* as UTF-8, or as UTF-16 if its byte order mark says so; raises `BadInput`.

    The mark of UTF-8 stays, since offsets may count it.
    """
    encoding = "utf-16" if data.startswith(UTF16_MARKS) else "utf-8"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadInput(field, f"is not {encoding.upper()} at byte {error.start}") from error


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """
    Yield the lines of *text* with their numbers, from 1, without line ends.

    Byte order marks inside a file, as in concatenated ones, are removed.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        yield number, line.removesuffix("\r").removeprefix(MARK)


def write_whole(path: Path, data: bytes | Iterable[bytes]) -> None:
    """
    Write *data* beside *path*, and rename it to *path* once it is complete.

    If anything fails, *path* stays as it was. Raises `BadInput` if it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            for piece in (data,) if isinstance(data, bytes) else data:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the name without the bytes
        part.replace(path)
    except OSError as error:
        raise BadInput(str(path), f"cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # moved by now, or never made
            part.unlink()
