import pytest

from galenic_adapters.study.instructed import Instructed
from galenic_adapters.tasks.ner import Ner, NerFields
from galenic_adapters.tasks.nli import Nli, NliFields
from galenic_adapters.tasks.qa import Qa, QaFields
from galenic_adapters.tasks.re import Re, ReFields
from galenic_adapters.tasks.summarization import Summarization, SummarizationFields

ASKED = [
    (Ner(("Drug", "Disease")), NerFields("aspirin")),
    (Re(("treats", "none")), ReFields("aspirin for pain")),
    (Qa(), QaFields("Why?", None, {"A": "pain", "B": "cough"})),
    (Nli(("yes", "no")), NliFields("a", "b")),
    (Summarization(), SummarizationFields("aspirin for pain")),
]


@pytest.mark.parametrize(("task", "fields"), ASKED)
def test_only_the_instruction_is_another(task, fields):
    plain, instructed = task.render(fields), Instructed(task).render(fields)

    assert plain[-1] == instructed[-1]
    assert len(instructed[0].content) > len(plain[0].content)
    assert all(label in instructed[0].content for label in task.labels)
    assert task.constraint(fields) == Instructed(task).constraint(fields)
    assert task.labels == Instructed(task).labels
