"""
Converts offsets between code points, in which tasks count, and the unit that a caller counts in.
"""

from bisect import bisect_left
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import Self

from galenic_adapters.errors import BadInput


class OffsetUnit(StrEnum):
    """Names what offsets count: Python's strings, those of Java, C# and JavaScript, or bytes."""

    CODEPOINT = "codepoint"
    UTF16 = "utf16"
    UTF8 = "utf8"


_ENCODINGS = {OffsetUnit.UTF16: ("utf-16-le", 2), OffsetUnit.UTF8: ("utf-8", 1)}


@dataclass(frozen=True, slots=True)
class Ruler:
    """
    Converts the offsets of one text.

    ends: the units before each code point and, last, in the whole text; None if code points count.
    """

    ends: tuple[int, ...] | None = None

    @classmethod
    def of(cls, text: str, unit: OffsetUnit) -> Self:
        if unit is OffsetUnit.CODEPOINT:
            return cls()
        encoding, width = _ENCODINGS[unit]
        units = (len(c.encode(encoding, "surrogatepass")) // width for c in text)
        return cls(tuple(accumulate(units, initial=0)))

    def to_unit(self, offset: int) -> int:
        """Convert an offset in code points to the unit."""
        return offset if self.ends is None else self.ends[offset]

    def to_codepoint(self, field: str, offset: int) -> int:
        """Convert an offset in the unit; raises `BadInput` for one in the middle of a character."""
        if self.ends is None:
            return offset
        found = bisect_left(self.ends, offset)
        if found == len(self.ends):
            raise BadInput(field, f"{offset} is not in a text of {self.ends[-1]}")
        if self.ends[found] != offset:
            raise BadInput(field, f"{offset} is in the middle of a character")
        return found
