"""Files are read as people save them, and written whole or not at all."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from galenic_adapters.errors import BadInput
from galenic_adapters.files import decoded, lines_of, text_of, write_whole

TEXT = "é 🩺\r\nb"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_mark_is_no_part_of_the_text(tmp_path, encoding):
    (tmp_path / "x.txt").write_bytes(TEXT.encode(encoding))

    assert TEXT == text_of(tmp_path / "x.txt")


def test_lines_lose_their_ends_and_marks():
    assert [(1, "a"), (2, "b"), (3, "")] == list(lines_of("\ufeffa\r\n\ufeffb\n"))


@pytest.mark.parametrize(
    ("data", "problem"),
    [(b"caf\xe9", "x: is not UTF-8 at byte 3"), (b"\xff\xfea", "x: is not UTF-16 at byte 2")],
)
def test_another_encoding_is_refused_with_the_place(data, problem):
    with pytest.raises(BadInput, match=problem):
        decoded("x", data)


class TestAFile:
    def test_is_written_from_bytes_or_pieces(self, tmp_path: Path):
        """
        Nothing else is left in the folder.
        """
        write_whole(tmp_path / "whole", b"one")
        write_whole(tmp_path / "pieces", iter([b"one", b"two"]))

        assert [b"onetwo", b"one"] == [path.read_bytes() for path in sorted(tmp_path.iterdir())]

    def test_stays_as_it_was_where_its_source_breaks(self, tmp_path: Path):
        """
        The source's own error is raised, and no part of the new content is left.
        """
        file = tmp_path / "kept"
        file.write_bytes(b"before")

        def broken() -> Iterator[bytes]:
            yield b"half"
            raise LookupError("gone")

        with pytest.raises(LookupError):
            write_whole(file, broken())

        assert [file] == list(tmp_path.iterdir())
        assert b"before" == file.read_bytes()

    def test_that_cannot_be_written_is_named(self, tmp_path: Path):
        """
        The error holds the system's reason.
        """
        with pytest.raises(BadInput, match=r"none/file: cannot be written: No such file"):
            write_whole(tmp_path / "none" / "file", b"")
