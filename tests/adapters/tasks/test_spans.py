import pytest
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

    @pytest.mark.parametrize("mention", ["", " \n"])
    def test_an_empty_mention_is_nowhere(self, mention):
        assert [] == occurrences(mention, "flu \n")

    @pytest.mark.parametrize(
        "gap", ["\n", "\r\n", "\r", "  ", "\t", "\u00a0", " \u202f", "\n    ", "\u2028", "\u3000"]
    )
    def test_a_mention_is_found_however_its_words_are_apart(self, gap):
        text = f"has heart{gap}failure; heart failure"
        places = [(4, len(text) - 15), (len(text) - 13, len(text))]

        assert places == occurrences("heart failure", text)
        assert places == occurrences(f"heart{gap}failure", text)

    def test_words_are_not_found_where_nothing_is_between_them(self):
        assert [] == occurrences("heart failure", "heartfailure")

    def test_capitals_matter_only_where_the_mention_stands_nowhere(self):
        assert [(0, 4)] == occurrences("Gout", "Gout or gout")
        assert [(0, 4), (8, 12)] == occurrences("gouT", "Gout or gout")
        assert [(0, 13)] == occurrences("heart failure", "HEART\nFAILURE today")

    @pytest.mark.parametrize(
        ("mention", "text"), [("Cad", "cadaver"), ("ALL", "all well"), ("US", "told us")]
    )
    def test_other_capitals_make_no_mention_of_another_word(self, mention, text):
        assert [] == occurrences(mention, text)


class TestLocate:
    def test_a_short_mention_is_not_found_inside_a_longer_one(self):
        spans, _ = locate(
            dict.fromkeys([("D", "cancer"), ("D", "breast cancer")]), "breast cancer or cancer"
        )

        assert [(0, 13), (17, 23)] == [(s.start, s.end) for s in spans]

    def test_unless_it_stands_nowhere_else(self):
        spans, _ = locate(dict.fromkeys([("D", "cancer"), ("D", "breast cancer")]), "breast cancer")

        assert [(0, 13), (7, 13)] == [(s.start, s.end) for s in spans]

    def test_types_do_not_hide_each_other(self):
        spans, _ = locate(
            dict.fromkeys([("Organ", "breast"), ("D", "breast cancer")]), "breast; breast cancer"
        )

        assert [("Organ", 0), ("Organ", 8), ("D", 8)] == [(s.type, s.start) for s in spans]

    def test_what_is_not_in_the_text_is_named(self):
        assert ((), ["ibuprofen"]) == locate(dict.fromkeys([("Drug", "ibuprofen")]), "aspirin")

    def test_a_span_says_what_the_text_says(self):
        (span,), missing = locate(dict.fromkeys([("D", "Heart Failure")]), "has heart\n failure")

        assert ((4, 18, "heart\n failure"), []) == ((span.start, span.end, span.text), missing)

    def test_a_place_is_taken_once(self):
        """
        What was found as it is written is not found a second time in other capitals, in part.
        """
        text = "chronic heart failure"
        said = [("D", "heart failure"), ("D", "Heart failure"), ("D", "Chronic heart")]

        spans, missing = locate(dict.fromkeys(said), text)

        assert ([(8, 21)], ["Chronic heart"]) == ([(s.start, s.end) for s in spans], missing)

    @given(text=TEXTS, mentions=st.lists(st.tuples(st.just("T"), TEXTS), max_size=4))
    def test_a_span_always_says_what_stands_there(self, text, mentions):
        spans, missing = locate(dict.fromkeys(mentions), text)

        assert all(text[s.start : s.end] == s.text for s in spans)
        found = {" ".join(s.text.split()) for s in spans}
        lost = {" ".join(m.split()) for m in missing}
        assert {" ".join(m.split()) for _, m in mentions} == found | lost
