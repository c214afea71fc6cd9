import pytest

from galenic_adapters.evaluation.evaluate import best_constant
from galenic_adapters.tasks.base import Example, Relation, Span
from galenic_adapters.tasks.ner import Ner, NerFields
from galenic_adapters.tasks.nli import Nli, NliFields
from galenic_adapters.tasks.qa import Qa, QaFields
from galenic_adapters.tasks.re import Re, ReFields

A, B = Span(0, 1, "a"), Span(2, 3, "b")


class TestBestConstant:
    def test_is_the_commonest_label(self):
        examples = [Example(str(i), NliFields("a", "b"), v) for i, v in enumerate("xyyz")]
        best = best_constant(Nli(("x", "y", "z")), examples)

        assert best is not None
        assert {"y"} == {one.text for one in best.completions}
        assert 0.5 == best.scores.metrics["accuracy"]
        assert pytest.approx(2 / 3 / 3) == best.scores.metrics["macro_f1"]

    def test_is_no_label_that_finds_nothing(self):
        """Two of three pairs have no relation, and saying so earns no F1."""
        values = [(), (), (Relation("x", A, B),)]
        examples = [Example(str(i), ReFields("a b", A, B), v) for i, v in enumerate(values)]
        best = best_constant(Re(("none", "x")), examples)

        assert best is not None
        assert {"x"} == {one.text for one in best.completions}
        assert 0.5 == best.scores.metrics["micro_f1"]

    def test_an_option_that_a_question_lacks_is_wrong_there(self):
        three = QaFields("q", None, {"A": "x", "B": "y", "C": "z"})
        two = QaFields("q", None, {"A": "x", "B": "y"})
        best = best_constant(Qa(), [Example("1", three, "C"), Example("2", two, "B")])

        assert best is not None
        assert 0.5 == best.scores.metrics["accuracy"]

    def test_there_is_none_for_free_text_and_lists(self):
        assert best_constant(Qa(), [Example("1", QaFields("q"), "x")]) is None
        assert best_constant(Ner(("T",)), [Example("1", NerFields("a b"), ())]) is None
