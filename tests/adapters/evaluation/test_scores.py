import pytest

from galenic_adapters.evaluation.scores import micro_f1, rouge_l, score, token_f1
from galenic_adapters.tasks.base import (
    Answer,
    Example,
    Reading,
    Relation,
    Span,
    TaskName,
)
from galenic_adapters.tasks.ner import NerFields
from galenic_adapters.tasks.nli import NliFields
from galenic_adapters.tasks.qa import QaFields
from galenic_adapters.tasks.re import ReFields

A, B = Span(0, 1, "a", "T"), Span(2, 3, "b", "T")


def clean(value):
    return Answer(value, Reading.CLEAN)


class TestNer:
    def test_counts_a_span_only_if_start_end_and_type_are_right(self):
        examples = [Example("1", NerFields("a b"), (A, B))]
        other_type = Span(2, 3, "b", "U")

        assert 0.5 == score(TaskName.NER, examples, [clean((A, other_type))]).metrics["strict_f1"]

    def test_an_unread_answer_is_wrong_and_counted(self):
        examples = [Example("1", NerFields("a b"), (A,)), Example("2", NerFields("a b"), (A,))]
        scores = score(TaskName.NER, examples, [clean((A,)), Answer(None, Reading.OFF_SCHEMA)])

        assert ("strict_f1", pytest.approx(2 / 3)) == scores.main
        assert 1 == scores.num_unread


def test_relations_of_no_kind_do_not_count():
    """Saying none where none is right earns nothing; saying none where one is costs recall."""
    fields = ReFields("a b", A, B)
    examples = [Example("1", fields, ()), Example("2", fields, (Relation("x", A, B),))]

    scores = score(TaskName.RE, examples, [clean(()), clean(())])

    assert {"micro_f1": 0.0, "macro_f1": 0.0} == scores.metrics


def test_labels_are_scored_by_accuracy_and_macro_f1():
    examples = [Example(str(i), NliFields("a", "b"), v) for i, v in enumerate("xxxy")]
    scores = score(TaskName.NLI, examples, [clean(v) for v in "xxxx"])

    assert 0.75 == scores.metrics["accuracy"]
    assert pytest.approx((6 / 7 + 0) / 2) == scores.metrics["macro_f1"]


def test_options_are_scored_by_accuracy_and_free_text_by_words():
    options = QaFields("q", None, {"A": "x", "B": "y"})

    assert "accuracy" == score(TaskName.QA, [Example("1", options, "A")], [clean("A")]).main[0]
    assert (
        "token_f1" == score(TaskName.QA, [Example("1", QaFields("q"), "x")], [clean("x")]).main[0]
    )


@pytest.mark.parametrize(
    ("gold", "said", "f1"),
    [
        ("the left lung", "Left lung.", 1.0),
        ("left lung", "lung", 2 / 3),
        ("left lung", None, 0.0),
        ("left lung", "heart", 0.0),
    ],
)
def test_token_f1_is_squads(gold, said, f1):
    assert pytest.approx(f1) == token_f1(gold, said)


def test_entity_scores_are_nervaluates():
    """Its overall figures over all examples at once; nothing to find and nothing said is right."""
    from nervaluate import Evaluator

    gold = [{(0, 1, "T"), (2, 3, "U")}, {(5, 9, "T")}, set(), {(0, 4, "T")}]
    said = [{(0, 1, "T"), (2, 3, "T")}, {(5, 8, "T")}, {(1, 2, "U")}, {(4, 5, "T")}]

    def plain(many):
        return [[{"label": t, "start": s, "end": e - 1} for s, e, t in sorted(one)] for one in many]

    def values(many):
        return [tuple(Span(s, e, "x" * (e - s), t) for s, e, t in one) for one in many]

    overall = Evaluator(plain(gold), plain(said), tags=["T", "U"], loader="dict").evaluate()
    examples = [Example("", NerFields("x" * 9), value) for value in values(gold)]
    scores = score(TaskName.NER, examples, [clean(value) for value in values(said)])

    assert {
        "strict_f1": pytest.approx(overall["overall"]["strict"].f1),
        "relaxed_f1": pytest.approx(overall["overall"]["ent_type"].f1),
    } == scores.metrics
    assert pytest.approx(scores.metrics["strict_f1"]) == micro_f1(gold, said).value()
    assert scores.metrics["relaxed_f1"] > scores.metrics["strict_f1"]
    assert 1.0 == score(TaskName.NER, examples[2:3], [clean(())]).metrics["strict_f1"]


def test_relations_have_a_macro_mean_over_gold_types():
    """x: 1 of 2 found (2/3); y: found (1)."""
    fields = ReFields("a b", A, B)
    x, y = Relation("x", A, B), Relation("y", A, B)
    examples = [Example(str(i), fields, (v,)) for i, v in enumerate((x, x, y))]

    scores = score(TaskName.RE, examples, [clean((x,)), clean(()), clean((y,))])

    assert pytest.approx((2 / 3 + 1) / 2) == scores.metrics["macro_f1"]
    assert pytest.approx(4 / 5) == scores.metrics["micro_f1"]


def test_macro_f1_is_the_mean_over_gold_labels():
    """a: 2 of 2 found and 1 too many (0.8); b: 1 of 2 found (2/3)."""
    examples = [Example(str(i), NliFields("a", "b"), v) for i, v in enumerate("aabb")]
    scores = score(TaskName.NLI, examples, [clean(v) for v in "aaab"])

    assert pytest.approx((0.8 + 2 / 3) / 2) == scores.metrics["macro_f1"]


def test_rouge_l_of_the_same_text_is_one_and_of_none_zero():
    assert [1.0, 0.0] == rouge_l(["chest pain", "chest pain"], ["chest pain", None])
