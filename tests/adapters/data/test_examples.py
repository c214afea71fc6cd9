import gzip
import json

import pytest

from galenic_adapters.data.examples import (
    num_over_line_ends,
    read_dataset,
    unsayable,
    with_lists,
)
from galenic_adapters.errors import BadInput
from galenic_adapters.tasks.lookup import make_task
from galenic_adapters.tasks.ner import Ner

NOTE = "Metformin for diabetes 🩺 and asthma."
HEAD, TAIL = {"start": 0, "end": 9, "type": "Drug"}, {"start": 14, "end": 22, "type": "Disease"}
GOOD = {
    "ner": {"id": "1", "text": NOTE, "entities": [HEAD, TAIL]},
    "re": {"id": "1", "text": NOTE, "head": HEAD, "tail": TAIL, "relation": "treats"},
    "qa": {"id": "1", "question": "Why?", "options": {"A": "x", "B": "y"}, "answer": "B"},
    "nli": {"id": "1", "premise": "a", "hypothesis": "b", "label": "entailment"},
    "summarization": {"id": "1", "text": NOTE, "summary": "Diabetes."},
}


@pytest.fixture
def write(tmp_path):
    def write(*rows, name="train.jsonl"):
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        data = "\n".join(lines).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


@pytest.mark.parametrize("name", ["train.jsonl", "train.jsonl.gz"])
@pytest.mark.parametrize("task", list(GOOD))
def test_every_task_has_a_form(write, task, name):
    assert ["1"] == [e.id for e in read_dataset(write(GOOD[task], name=name), task).examples]


def test_labels_are_those_in_use(write):
    other = GOOD["re"] | {"id": "2", "relation": "none"}

    assert ("none", "treats") == read_dataset(write(GOOD["re"], other), "re").labels
    assert ("Disease", "Drug") == read_dataset(write(GOOD["ner"]), "ner").labels


@pytest.mark.parametrize(
    ("task", "change", "problem"),
    [
        ("ner", {"entities": [HEAD | {"end": 99}]}, r"entities\[0\]: 0:99 is not in a text of 36"),
        ("ner", {"text": " ", "entities": []}, "text: is empty"),
        ("ner", {"entities": None}, "fields: missing or mistyped"),
        (
            "ner",
            {"entities": [HEAD | {"end": 9.0}]},
            r"entities\[0\]: start and end are int and fl",
        ),
        ("nli", {"hypothesis": None}, "fields: missing or mistyped"),
        ("nli", {"id": "1"}, "id: '1' appears a second time"),
        ("re", {"tail": TAIL | {"start": 30, "end": 30}}, "tail: 30:30 is not in a text"),
        ("qa", {"answer": "C"}, "answer: 'C' is none of the options A, B"),
        ("nli", {"label": ""}, "label: is empty"),
        ("summarization", {"summary": ""}, "summary: is empty"),
    ],
)
def test_a_fault_is_told_with_its_line(write, task, change, problem):
    path = write(GOOD[task], GOOD[task] | {"id": "2"} | change)

    with pytest.raises(BadInput, match=rf"train\.jsonl: line 2: {problem}"):
        read_dataset(path, task)


def test_another_tasks_line_is_told_as_such(write):
    path = write(GOOD["nli"], GOOD["summarization"])

    with pytest.raises(BadInput, match="line 2: task: has the fields of summarization, not of nli"):
        read_dataset(path, "nli")


def test_a_closed_set_of_labels_is_closed(write):
    path = write(GOOD["nli"], GOOD["nli"] | {"id": "2", "label": "maybe"})

    with pytest.raises(BadInput, match="line 2: labels: 'maybe' is none of entailment"):
        read_dataset(path, "nli", ["entailment"])
    assert 2 == len(read_dataset(path, "nli", ["entailment", "maybe"]).examples)


def test_lines_are_counted_with_the_blank_ones(write):
    path = write(GOOD["nli"], "", "{")

    with pytest.raises(BadInput, match=r"line 3: line: is not JSON"):
        read_dataset(path, "nli")


def test_what_a_list_of_mentions_cannot_say_is_found(write):
    """An entity inside another that also stands elsewhere; a twin that is not annotated."""
    text = "breast cancer, then cancer"
    outer, inner, twin = ((0, 13), (7, 13), (20, 26))

    def row(id_, *places):
        spans = [{"start": start, "end": end, "type": "D"} for start, end in places]
        return {"id": id_, "text": text, "entities": spans}

    path = write(row("said", outer, twin), row("nested", outer, inner), row("whole", outer))

    assert ["nested"] == list(unsayable(Ner(("D",)), read_dataset(path, "ner").examples))
    path = write(GOOD["ner"] | {"text": NOTE + " Metformin."})
    assert {"1": "1 mentions that are not annotated count as entities"} == unsayable(
        Ner(("Disease", "Drug")), read_dataset(path, "ner").examples
    )


def test_a_mention_with_space_at_its_ends_cannot_be_said_and_one_over_a_line_end_can(write):
    text = "had congestive heart\nfailure and  gout ."

    def row(id_, start, end):
        return {"id": id_, "text": text, "entities": [{"start": start, "end": end, "type": "D"}]}

    examples = read_dataset(write(row("wrapped", 4, 28), row("padded", 32, 39)), "ner").examples

    assert {"padded": "1 of 1 entities begin or end in space, as no answer does"} == unsayable(
        Ner(("D",)), examples
    )
    assert 1 == num_over_line_ends(examples)


@pytest.mark.parametrize("task", list(GOOD))
def test_what_every_task_takes_can_be_said(write, task):
    labels = {"ner": ["Drug", "Disease"], "re": ["treats"], "nli": ["entailment", "other"]}

    examples = read_dataset(write(GOOD[task]), task).examples

    assert {} == unsayable(make_task(task, labels.get(task, ())), examples)


def test_all_faults_are_told_at_once_and_no_text(write):
    row = GOOD["ner"]
    path = write("{", row | {"entities": [HEAD | {"start": 50}]}, row, row)

    with pytest.raises(BadInput) as refusal:
        read_dataset(path, "ner")

    told = str(refusal.value)
    assert ["line 1", "line 2", "line 4"] == [
        n for n in ("line 1", "line 2", "line 3", "line 4") if n in told
    ]
    assert "Metformin" not in told
    assert 3 == len(told.splitlines()) == told.count("train.jsonl: line ")


def test_a_file_that_cannot_be_read_is_named(tmp_path, write):
    with pytest.raises(BadInput, match=r"gone\.jsonl: cannot be read: No such file"):
        read_dataset(tmp_path / "gone.jsonl", "ner")
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}')
    with pytest.raises(BadInput, match="line 1: line: is not UTF-8 at its byte 8"):
        read_dataset(tmp_path / "latin.jsonl", "ner")
    with pytest.raises(BadInput, match="holds no example"):
        read_dataset(write(""), "ner")
    cut = write(GOOD["ner"], name="train.jsonl.gz")
    cut.write_bytes(cut.read_bytes()[:-12])
    with pytest.raises(BadInput, match=r"train\.jsonl\.gz: cannot be read: Compressed file ended"):
        read_dataset(cut, "ner")


def test_byte_order_marks_are_no_part_of_a_line(tmp_path):
    """
    Neither the file's own nor those of files that were put together.
    """
    rows = [json.dumps(GOOD["nli"] | {"id": id_}).encode("utf-8-sig") for id_ in "ab"]
    (tmp_path / "marked.jsonl").write_bytes(b"\r\n".join([*rows, b"\xef\xbb\xbf"]))

    read = read_dataset(tmp_path / "marked.jsonl", "nli")

    assert ["a", "b"] == [example.id for example in read.examples]
    (tmp_path / "wide.jsonl").write_bytes(json.dumps(GOOD["nli"]).encode("utf-16"))
    with pytest.raises(BadInput, match=r"wide\.jsonl: is UTF-16; save it as UTF-8"):
        read_dataset(tmp_path / "wide.jsonl", "nli")


def test_a_text_with_pairs_also_asks_for_all_its_relations(write):
    other = GOOD["re"] | {
        "id": "2",
        "relation": "causes",
        "tail": {"start": 29, "end": 35, "type": "Disease"},
    }
    examples = with_lists(read_dataset(write(GOOD["re"], other), "re").examples)

    assert [1, 1, 2] == [len(e.value) for e in examples]
    assert (None, None) == (examples[-1].fields.head, examples[-1].fields.tail)
