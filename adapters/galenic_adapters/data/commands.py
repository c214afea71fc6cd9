"""
Runs the commands ``galenic convert`` and ``galenic convert-hub``.
"""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from galenic_adapters.data.archives import unpacked
from galenic_adapters.data.conll import Columns, read_conll
from galenic_adapters.data.convert import READERS, Rules, convert
from galenic_adapters.data.documents import Report
from galenic_adapters.data.examples import Dataset, labels_of, labels_used, read_dataset
from galenic_adapters.data.hub import HubSet, hub_documents, hub_rows
from galenic_adapters.data.rows import write_dataset, write_rows
from galenic_adapters.errors import BadInput
from galenic_adapters.progress import Say
from galenic_adapters.tasks.base import TaskName


def convert_files(
    form: str,
    source: Path,
    out: Path,
    *,
    task: Literal["ner", "re"],
    rules: Rules,
    columns: Columns | None = None,
    say: Say = print,
) -> Report:
    """Convert the documents in *source* to examples in *out*, and report what was left out."""
    if not source.exists():
        raise BadInput(str(source), "is not there")
    report = Report()
    with unpacked(source) as path:
        if form == "conll" and columns:
            documents = read_conll(path, report, columns)
        else:
            documents = READERS[form](path, report)
        examples = convert(documents, task, rules, report)
    _write(out, Dataset(TaskName(task), tuple(examples), labels_of(examples)), report, say)
    return report


def convert_hub(source: HubSet, out: Path, *, task: str, say: Say = print) -> Report:
    """Convert a data set of the hub to examples in *out*; for all tasks but NER, row by row."""
    report = Report()
    if task == "ner":
        examples = convert(hub_documents(source), "ner", Rules(), report)
        data = Dataset(TaskName.NER, tuple(examples), labels_of(examples))
    else:
        with TemporaryDirectory() as folder:
            path = Path(folder) / out.name.removesuffix(".gz")
            write_rows(path, hub_rows(source, task))
            data = read_dataset(path, task)
        report.num_documents = len(data.examples)
    _write(out, data, report, say)
    return report


def _write(out: Path, data: Dataset, report: Report, say: Say) -> None:
    for line in report.lines():
        say(line)
    if not data.examples:
        raise BadInput(out.name, f"no example is left of {report.num_documents} documents")
    write_dataset(out, data.examples)
    num_examples, counts = len(data.examples), _counts(data)
    say(f"{out}: {num_examples} examples of {report.num_documents} documents{_listed(counts)}")
    if data.task in (TaskName.NER, TaskName.RE) and not counts:
        say("warning: none of them has an annotation")


def _counts(data: Dataset) -> Counter[str]:
    """Count the uses of each label."""
    return Counter(label for example in data.examples for label in labels_used(example))


def _listed(counts: Counter[str]) -> str:
    each = ", ".join(f"{label} {number}" for label, number in sorted(counts.items()))
    return f", {counts.total()} annotations: {each}" if counts else ""
