import pytest

from galenic_adapters.errors import BadInput
from galenic_adapters.files import decoded, lines_of, text_of

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
