"""Files that are written whole or not at all."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from galenic_adapters.errors import BadInput
from galenic_adapters.files import write_whole


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
        With the system's reason.
        """
        with pytest.raises(BadInput, match=r"none/file: cannot be written: No such file"):
            write_whole(tmp_path / "none" / "file", b"")
