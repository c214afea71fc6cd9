"""
Facts about every task: what is written reads back, what cannot be read is not guessed.
"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import Choice, Completion, Reading, Relation, Span
from galenic_adapters.tasks.lookup import TASKS, make_task
from galenic_adapters.tasks.ner import Ner, NerFields
from galenic_adapters.tasks.nli import Nli, NliFields
from galenic_adapters.tasks.qa import Qa, QaFields
from galenic_adapters.tasks.re import Re, ReFields
from galenic_adapters.tasks.summarization import Summarization, SummarizationFields

NOTE = "Metformin for type 2 diabetes; no asthma. Diabetes: -> see above, asthma: denied."
WORDS = NOTE.split(" ")
NER = Ner(("Disease", "Drug"))
RE = Re(("treats", "causes", "none"))


def said(text: str, finish: str = "stop", logprob: float | None = None) -> Completion:
    return Completion(text, finish, line_logprobs=() if logprob is None else (logprob,))


def span(text: str, type_: str | None = None, note: str = NOTE) -> Span:
    start = note.index(text)
    return Span(start, start + len(text), text, type_)


class TestEveryTask:
    @pytest.mark.parametrize("name", list(TASKS))
    def test_has_the_name_it_is_found_by(self, name):
        labels = ("a", "b") if name in {"ner", "re", "nli"} else ()

        assert name == make_task(name, labels).name

    def test_an_unknown_one_is_refused_by_name(self):
        with pytest.raises(BadInput, match="task: 'icd' is none of ner, re"):
            make_task("icd")

    @pytest.mark.parametrize("labels", [("a", "a"), ("a", ""), ("a", "b\nc"), (" a", "b"), ()])
    @pytest.mark.parametrize("name", ["ner", "re", "nli"])
    def test_labels_are_distinct_single_lines(self, name, labels):
        with pytest.raises(BadInput, match="labels"):
            make_task(name, labels)

    @pytest.mark.parametrize("text", ["", " \n", "\ud800", "nul\0"])
    @pytest.mark.parametrize(
        "fields",
        [
            lambda text: NerFields(text),
            lambda text: ReFields(text),
            lambda text: QaFields(text),
            lambda text: QaFields("why?", text),
            lambda text: QaFields("why?", None, {"A": "yes", "B": text}),
            lambda text: NliFields(text, "b"),
            lambda text: NliFields("a", text),
            lambda text: SummarizationFields(text),
        ],
    )
    def test_refuses_text_that_is_none(self, fields, text):
        with pytest.raises(BadInput, match=r"is empty|surrogate|NUL"):
            fields(text)

    def test_never_reads_more_than_was_said(self):
        """Cut off or off the schema, a closed answer is no answer."""
        fields = NliFields("a", "b")
        nli = Nli(("yes", "yes, but"))

        assert (None, Reading.TRUNCATED) == _value_and_reading(
            nli.read(said("yes", "length"), fields)
        )
        assert (None, Reading.OFF_SCHEMA) == _value_and_reading(nli.read(said("Yes"), fields))


def _value_and_reading(answer):
    return answer.value, answer.reading


class TestNer:
    def test_a_repeated_mention_is_an_entity_every_time(self):
        answer = NER.read(said("Disease: asthma\nDrug: Metformin"), NerFields(NOTE))

        assert ["Metformin", "asthma", "asthma"] == [s.text for s in answer.value]
        assert Reading.CLEAN == answer.reading

    def test_what_is_not_in_the_note_is_dropped_and_said_so(self):
        answer = NER.read(said("Disease: asthma\nDisease: gout"), NerFields(NOTE))

        assert {"asthma"} == {s.text for s in answer.value}
        assert ("1 mention(s) not found in the text were dropped",) == answer.warnings

    def test_a_mention_over_a_line_end_reads_back(self):
        """
        An answer has a line a mention, so it is written in one and found in two.
        """
        text = "No asthma. Congestive  heart\r\n  failure."
        fields, value = NerFields(text), (Span(11, 39, text[11:39], "Disease"),)

        assert "Disease: Congestive  heart failure" == NER.write(value, fields)
        assert value == NER.read(said(NER.write(value, fields)), fields).value

    def test_few_entities_of_a_long_note_are_a_warning(self):
        def warnings(times):
            return NER.read(said("Drug: Metformin"), NerFields(NOTE * times)).warnings

        assert () == warnings(1) == warnings(50)
        few = NER.read(said("none"), NerFields(NOTE * 50)).warnings
        assert ("0 entities are few for 4050 characters; shorter texts read better",) == few

    def test_each_entity_has_the_probability_of_its_line(self):
        """A mention that occurs twice counts twice, with one probability."""
        logprobs = (math.log(0.5), math.log(0.25))
        text = "Drug: Metformin\nDisease: asthma"
        answer = NER.read(Completion(text, "stop", line_logprobs=logprobs), NerFields(NOTE))

        assert ["Metformin", "asthma", "asthma"] == [s.text for s in answer.value]
        assert [0.5, 0.25, 0.25] == pytest.approx([s.confidence for s in answer.value])
        assert answer.confidence is None

    def test_without_probabilities_there_is_no_confidence(self):
        answer = NER.read(said("Drug: Metformin"), NerFields(NOTE))

        assert [None] == [s.confidence for s in answer.value]

    def test_none_is_a_clean_empty_list(self):
        assert ((), Reading.CLEAN) == _value_and_reading(NER.read(said("none"), NerFields(NOTE)))

    def test_of_a_truncated_answer_the_complete_lines_count(self):
        answer = NER.read(said("Drug: Metformin\nDisease: asth", "length"), NerFields(NOTE))

        assert (["Metformin"], Reading.TRUNCATED) == (
            [s.text for s in answer.value],
            answer.reading,
        )

    @pytest.mark.parametrize("text", ["", "Symptom: asthma", "Disease:", "I think: none"])
    def test_a_line_of_another_form_is_off_schema(self, text):
        assert (None, Reading.OFF_SCHEMA) == _value_and_reading(
            NER.read(said(text), NerFields(NOTE))
        )

    @given(st.sets(st.tuples(st.sampled_from(WORDS), st.sampled_from(NER.labels)), max_size=5))
    def test_what_is_written_reads_back(self, mentions):
        fields = NerFields(NOTE)
        value = tuple(span(text, type_) for text, type_ in mentions)

        answer = NER.read(said(NER.write(value, fields)), fields)

        assert Reading.CLEAN == answer.reading
        assert {(s.text, s.type) for s in value} == {(s.text, s.type) for s in answer.value}


class TestRe:
    PAIR = ReFields(NOTE, span("Metformin"), span("asthma"))

    def test_a_pair_is_marked_where_it_stands(self):
        _, user = RE.render(self.PAIR)

        assert user.content.startswith("<<Metformin>> for type 2 diabetes; no [[asthma]].")
        assert user.content.endswith("\nMetformin -> asthma")

    def test_adjacent_marks_do_not_cross(self):
        _, user = RE.render(ReFields("ab", Span(0, 1, "a"), Span(1, 2, "b")))

        assert user.content.startswith("<<a>>[[b]]\n")

    def test_a_pair_can_only_be_answered_by_a_label(self):
        assert Choice(RE.labels) == RE.constraint(self.PAIR)

    def test_a_pair_is_read_with_the_labels_probability(self):
        answer = RE.read(said("treats", logprob=-0.6931), self.PAIR)

        assert (Relation("treats", self.PAIR.head, self.PAIR.tail),) == answer.value
        assert pytest.approx(0.5, abs=1e-3) == answer.confidence

    def test_none_is_no_relation(self):
        assert ((), Reading.CLEAN) == _value_and_reading(RE.read(said("none"), self.PAIR))

    def test_a_text_is_answered_by_a_list(self):
        answer = RE.read(said("treats: Metformin -> type 2 diabetes"), ReFields(NOTE))

        assert [("treats", "Metformin", "type 2 diabetes")] == [
            (r.type, r.head.text, r.tail.text) for r in answer.value
        ]

    def test_a_mention_may_hold_the_arrow(self):
        answer = RE.read(said("causes: Diabetes: -> see -> asthma"), ReFields(NOTE))

        assert "Diabetes: -> see" == answer.value[0].head.text

    def test_a_relation_of_something_elsewhere_is_dropped_and_said_so(self):
        answer = RE.read(said("treats: aspirin -> asthma"), ReFields(NOTE))

        assert () == answer.value
        assert "dropped" in answer.warnings[0]

    @pytest.mark.parametrize(
        ("head", "problem"),
        [(Span(0, 999, "x"), "0:999 is not in a text of 81"), (Span(0, 3, "xyz"), "differs")],
    )
    def test_a_span_must_be_the_texts_own(self, head, problem):
        with pytest.raises(BadInput, match=problem):
            ReFields(NOTE, head, span("asthma"))

    def test_a_head_without_a_tail_is_refused(self):
        with pytest.raises(BadInput, match="come together"):
            ReFields(NOTE, span("asthma"))


class TestQa:
    OPTIONS = QaFields("Which?", options={"A": "insulin", "B": "aspirin"})

    def test_options_are_answered_by_their_letter_alone(self):
        assert Choice(("A", "B")) == Qa().constraint(self.OPTIONS)
        assert "B" == Qa().read(said("B"), self.OPTIONS).value

    def test_without_options_the_answer_is_what_was_said(self):
        assert "two weeks" == Qa().read(said(" two weeks\n"), QaFields("How long?")).value

    def test_silence_is_no_answer(self):
        answer = Qa().read(said(" "), QaFields("How long?"))

        assert (None, Reading.OFF_SCHEMA) == _value_and_reading(answer)

    def test_one_option_is_no_choice(self):
        with pytest.raises(BadInput, match="options: 1 given, at least 2 needed"):
            QaFields("Which?", options={"A": "insulin"})


class TestSummarization:
    def test_a_summary_cut_off_says_so(self):
        answer = Summarization().read(said("Patient has", "length"), SummarizationFields(NOTE))

        assert ("Patient has", Reading.TRUNCATED) == _value_and_reading(answer)
