"""
Files of text as people save them. A byte order mark says how a file is encoded and is no part of
its text.
"""

import codecs
from collections.abc import Iterator
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
