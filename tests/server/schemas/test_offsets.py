import pytest
from hypothesis import given
from hypothesis import strategies as st

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import Answer, Reading, Relation, Span
from galenic_server.schemas.offsets import OffsetUnit, Ruler
from galenic_server.schemas.tasks import NerRead, ReRead

ENCODED = {OffsetUnit.UTF16: ("utf-16-le", 2), OffsetUnit.UTF8: ("utf-8", 1)}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("😷é\r\n\ufeff𝔘́"))


class TestARuler:
    @given(TEXTS, st.data())
    def test_the_slice_is_the_text(self, text: str, data: st.DataObject):
        """In each unit, start and end cut out of the encoded text what they cut out of the text."""
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, len(text)))
        for unit, (encoding, width) in ENCODED.items():
            ruler = Ruler.of(text, unit)
            cut = slice(ruler.to_unit(start) * width, ruler.to_unit(end) * width)

            assert text[start:end] == text.encode(encoding)[cut].decode(encoding)

    @given(TEXTS, st.data())
    def test_there_and_back_is_the_same(self, text: str, data: st.DataObject):
        offset = data.draw(st.integers(0, len(text)))
        for unit in OffsetUnit:
            ruler = Ruler.of(text, unit)

            assert offset == ruler.to_codepoint("head", ruler.to_unit(offset))

    def test_no_offset_cuts_a_character(self):
        with pytest.raises(BadInput, match="head: 1 is in the middle of a character"):
            Ruler.of("😷", OffsetUnit.UTF16).to_codepoint("head", 1)

    def test_an_offset_outside_is_told_with_the_texts_length(self):
        with pytest.raises(BadInput, match="head: 9 is not in a text of 4"):
            Ruler.of("😷", OffsetUnit.UTF8).to_codepoint("head", 9)


class TestAnAnswer:
    TEXT = "😷 flu, gout"
    FLU, GOUT = Span(2, 5, "flu", "D"), Span(7, 11, "gout", "D")

    @pytest.mark.parametrize(("unit", "start"), [("codepoint", 2), ("utf16", 3), ("utf8", 5)])
    def test_has_offsets_in_the_unit(self, unit: str, start: int):
        ruler = Ruler.of(self.TEXT, OffsetUnit(unit))
        found = NerRead.of("0", Answer((self.FLU,), Reading.CLEAN), ruler)
        related = ReRead.of(
            "0", Answer((Relation("r", self.FLU, self.GOUT),), Reading.CLEAN), ruler
        )

        assert [(start, start + 3)] == [(e.start, e.end) for e in found.entities or ()]
        (relation,) = related.relations or ()
        assert (start, start + 9) == (relation.head.start, relation.tail.end)
