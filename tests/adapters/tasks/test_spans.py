from hypothesis import given
from hypothesis import strategies as st

from galenic_adapters.tasks.spans import locate, occurrences

TEXTS = st.text(alphabet="ab é🩺\n", max_size=40)


class TestOccurrences:
    def test_every_place_is_found(self):
        assert [(0, 6), (11, 17)] == occurrences("asthma", "asthma and asthma")

    def test_no_word_is_cut_in_two_where_whole_ones_stand(self):
        assert [(5, 8)] == occurrences("CAH", "CAHs CAH")

    def test_a_part_of_a_word_is_better_than_nothing(self):
        assert [(0, 3)] == occurrences("CAH", "CAHs")

    def test_offsets_are_code_points(self):
        """An emoji is one, whatever UTF-16 or UTF-8 make of it."""
        assert [(2, 5)] == occurrences("flu", "🩺 flu")

    def test_an_empty_mention_is_nowhere(self):
        assert [] == occurrences("", "flu")


class TestLocate:
    def test_a_short_mention_is_not_found_inside_a_longer_one(self):
        spans, _ = locate([("D", "cancer"), ("D", "breast cancer")], "breast cancer or cancer")

        assert [(0, 13), (17, 23)] == [(s.start, s.end) for s in spans]

    def test_unless_it_stands_nowhere_else(self):
        spans, _ = locate([("D", "cancer"), ("D", "breast cancer")], "breast cancer")

        assert [(0, 13), (7, 13)] == [(s.start, s.end) for s in spans]

    def test_types_do_not_hide_each_other(self):
        spans, _ = locate([("Organ", "breast"), ("D", "breast cancer")], "breast; breast cancer")

        assert [("Organ", 0), ("Organ", 8), ("D", 8)] == [(s.type, s.start) for s in spans]

    def test_what_is_not_in_the_text_is_named(self):
        assert ((), ["ibuprofen"]) == locate([("Drug", "ibuprofen")], "aspirin")

    @given(text=TEXTS, mentions=st.lists(st.tuples(st.just("T"), TEXTS), max_size=4))
    def test_a_span_always_says_what_stands_there(self, text, mentions):
        spans, missing = locate(mentions, text)

        assert all(text[s.start : s.end] == s.text for s in spans)
        assert {m for _, m in mentions} == {s.text for s in spans} | set(missing)
