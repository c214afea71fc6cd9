"""From documents to files that training reads."""

import gzip
import json
from shutil import make_archive

import pytest
from typer.testing import CliRunner

from galenic_adapters.cli.main import app
from galenic_adapters.data.convert import Rules, convert
from galenic_adapters.data.documents import Document, Link, Mention, Reason, Report
from galenic_adapters.data.examples import read_dataset
from galenic_adapters.data.rows import row_of, write_dataset
from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.base import Example, Span
from galenic_adapters.tasks.nli import NliFields
from galenic_adapters.tasks.qa import QaFields
from galenic_adapters.tasks.re import ReFields
from galenic_adapters.tasks.summarization import SummarizationFields

TEXT = "Acute kidney pain 🩺 after aspirin, none after ibuprofen."
SIGN = Mention("T1", "Sign", ((0, 17),))
PART = Mention("T2", "Organ", ((6, 12),))
AGAIN = Mention("T3", "Organ", ((6, 12),))
ASPIRIN = Mention("T4", "Drug", ((26, 33),))
IBUPROFEN = Mention("T5", "Drug", ((46, 55),))
ALL = (SIGN, PART, AGAIN, ASPIRIN, IBUPROFEN)


def document(*mentions, links=(), name="n"):
    return Document(name, TEXT, mentions, tuple(links))


def ner(rules=Rules(), *documents):  # noqa: B008  it is frozen
    report = Report()
    examples = convert(documents or [document(*ALL)], "ner", rules, report)
    return [[(s.type, s.text) for s in e.value] for e in examples], report


class TestNer:
    def test_nested_mentions_are_kept_and_twins_are_not(self):
        said, report = ner()

        nested = [("Sign", "Acute kidney pain"), ("Organ", "kidney")]
        assert [[*nested, ("Drug", "aspirin"), ("Drug", "ibuprofen")]] == said
        assert {Reason.TWIN: ["n/T3"]} == report.places

    def test_of_those_that_overlap_the_longest_may_win(self):
        said, report = ner(Rules(overlaps="longest"))

        assert [("Sign", "Acute kidney pain"), ("Drug", "aspirin"), ("Drug", "ibuprofen")] == said[
            0
        ]
        assert ["n/T2", "n/T3"] == report.places[Reason.OVERLAPS]

    def test_only_the_types_asked_for(self):
        said, report = ner(Rules(labels=("Drug",)))

        assert [[("Drug", "aspirin"), ("Drug", "ibuprofen")]] == said
        assert 3 == report.num(Reason.OTHER_TYPE)

    def test_a_text_without_mentions_is_an_example_too(self):
        assert [[]] == ner(Rules(), document())[0]

    def test_a_document_that_comes_twice_counts_once(self):
        said, report = ner(Rules(), document(), document())

        assert ([[]], {Reason.SAME_ID: ["n"]}, 2) == (said, report.places, report.num_documents)


class TestRe:
    links = (Link("after", "T1", "T4"),)

    def pairs(self, rules, *documents):
        report = Report()
        examples = convert(documents or [document(*ALL, links=self.links)], "re", rules, report)
        return [
            (e.fields.head.text, e.fields.tail.text, e.value[0].type if e.value else None)
            for e in examples
        ], report

    def test_relations_are_examples_about_a_pair(self):
        assert [("Acute kidney pain", "aspirin", "after")] == self.pairs(Rules())[0]

    def test_pairs_that_could_be_related_and_are_not_are_examples_on_request(self):
        """
        Only Sign and Drug are related anywhere, so no pair of organs and drugs is asked about.
        """
        related = ("Acute kidney pain", "aspirin", "after")
        other = ("Acute kidney pain", "ibuprofen", None)

        assert [related, other] == self.pairs(Rules(none_pairs=5))[0]
        assert [related, other] == self.pairs(Rules(none_pairs=1))[0]
        far = [document(*ALL, links=self.links), document(*ALL, name="m")]
        assert [related, ("Acute kidney pain", "aspirin", None)] == self.pairs(
            Rules(none_pairs=1), far[0], far[1]
        )[0][::2]

    def test_only_the_relations_asked_for(self):
        said, report = self.pairs(Rules(labels=("before",), none_pairs=5))

        assert ([], {Reason.OTHER_TYPE: ["n/T1-T4"]}) == (said, report.places)


HEAD, TAIL = Span(0, 17, TEXT[:17], "Sign"), Span(26, 33, "aspirin", "Drug")
EXAMPLES = {
    "ner": convert([document(*ALL)], "ner", Rules(), Report()),
    "re": convert([document(*ALL, links=TestRe.links)], "re", Rules(none_pairs=9), Report()),
    "qa": [
        Example("1", QaFields("Why?", TEXT, {"A": "x", "B": "y"}), "B"),
        Example("2", QaFields("Why?"), "so"),
    ],
    "nli": [Example("1", NliFields(TEXT, "b"), "yes")],
    "summarization": [Example("1", SummarizationFields(TEXT), "pain\u2028🩺")],
}


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
@pytest.mark.parametrize("task", list(EXAMPLES))
def test_what_is_written_reads_back_the_same(tmp_path, task, name):
    write_dataset(tmp_path / name, EXAMPLES[task])

    assert tuple(EXAMPLES[task]) == read_dataset(tmp_path / name, task).examples
    assert [name] == [path.name for path in tmp_path.iterdir()]


def test_the_same_examples_make_the_same_bytes(tmp_path):
    for name in ("a.gz", "b.gz"):
        write_dataset(tmp_path / name, EXAMPLES["re"])

    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_a_list_of_relations_has_no_row():
    with pytest.raises(BadInput, match="ReFields of this kind has no row"):
        row_of(Example("1", ReFields(TEXT), ()))


def test_a_file_that_cannot_be_written_is_named_and_no_part_of_it_stays(tmp_path):
    (tmp_path / "out.jsonl").mkdir()

    with pytest.raises(BadInput, match=r"out\.jsonl: cannot be written"):
        write_dataset(tmp_path / "out.jsonl", EXAMPLES["nli"])
    assert ["out.jsonl"] == [path.name for path in tmp_path.iterdir()]


class TestCommand:
    @pytest.fixture
    def notes(self, tmp_path):
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes/n.txt").write_text(TEXT)
        (tmp_path / "notes/n.ann").write_text(
            "T1\tSign 0 17\tAcute kidney pain\nT4\tDrug 26 33\taspirin\n"
            "T6\tSign 0 5;13 17\tAcute pain\nR1\tafter Arg1:T1 Arg2:T4\n"
        )
        return tmp_path / "notes"

    def run(self, *arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    def test_a_folder_becomes_a_file_that_training_reads(self, notes, tmp_path):
        out = tmp_path / "train.jsonl.gz"

        result = self.run("convert", "brat", notes, out, "--task", "re", "--split", "sentences")

        assert 0 == result.exit_code, result.output
        assert ("after",) == read_dataset(out, "re").labels
        assert "dropped 1: in several places (n/T6)" in result.output
        assert "1 examples of 1 documents, 1 annotations: after 1" in result.output
        assert "Acute" not in result.output

    def test_columns_are_named_by_number(self, tmp_path):
        (tmp_path / "x.conll").write_text("B-Drug\taspirin\n")

        result = self.run(
            *("convert", "conll", tmp_path / "x.conll", tmp_path / "out.jsonl"),
            *("--token-column", 1, "--tag-column", 0),
        )

        assert 0 == result.exit_code, result.output
        row = json.loads((tmp_path / "out.jsonl").read_text())
        assert {"start": 0, "end": 7, "type": "Drug"} == row["entities"][0]

    def test_nothing_is_written_where_no_example_is_left(self, notes, tmp_path):
        out = tmp_path / "train.jsonl"

        result = self.run("convert", "brat", notes, out, "--task", "re", "--label", "before")

        assert 1 == result.exit_code
        assert "dropped 1: type that was not asked for (n/T1-T4)" in result.output
        assert "train.jsonl: no example is left of 1 documents" in result.output
        assert not out.exists()

    def test_gzipped_output_is_gzip(self, notes, tmp_path):
        self.run("convert", "brat", notes, tmp_path / "o.jsonl.gz")

        assert 1 == gzip.decompress((tmp_path / "o.jsonl.gz").read_bytes()).count(b"\n")

    def test_a_set_without_annotations_is_told(self, tmp_path):
        (tmp_path / "x.json").write_text('{"text": "gout", "marks": [{"id": "1"}]}')

        result = self.run("convert", "pubannotation", tmp_path / "x.json", tmp_path / "o.jsonl")

        assert "dropped 1: attribute, note, link or further label" in result.output
        assert "warning: none of them has an annotation" in result.output

    def test_an_archive_is_read_as_the_folder_in_it(self, notes, tmp_path):
        archive = make_archive(str(tmp_path / "notes"), "zip", notes)

        result = self.run("convert", "brat", archive, tmp_path / "o.jsonl")

        assert 0 == result.exit_code, result.output
        assert "1 examples of 1 documents, 2 annotations: Drug 1, Sign 1" in result.output
