"""
An adapter scores the same over HTTP as in this process: one template, one constraint, one reader.
"""

import json

import pytest
import torch
from typer.testing import CliRunner

from galenic_adapters.backbone.prompted import PromptedBackbone
from galenic_adapters.cli.main import app
from galenic_adapters.data.examples import read_dataset
from galenic_adapters.data.rows import write_rows
from galenic_adapters.evaluation.evaluate import evaluate
from galenic_adapters.factor import compose
from galenic_adapters.tasks.lookup import make_task
from tests.support import http_fixtures
from tests.support.serving import metaprompt, package

backbone, running = http_fixtures.backbone, http_fixtures.running
NOTE = "aspirin for pain"
HEAD, TAIL = {"start": 0, "end": 7, "type": "Drug"}, {"start": 12, "end": 16, "type": "Sign"}
DATA = {
    "ner": [{"text": NOTE, "entities": [TAIL | {"type": "Disease"}]}],
    "re": [
        {"text": NOTE, "head": HEAD, "tail": TAIL, "relation": relation}
        for relation in ("treats", "none", "causes")
    ],
    "qa": [
        {
            "question": "Why?",
            "context": NOTE,
            "options": {"A": "pain", "B": "cough"},
            "answer": "A",
        },
        {"question": "How?", "options": {"A": "once", "B": "twice"}, "answer": "B"},
    ],
    "nli": [
        {"premise": NOTE, "hypothesis": text, "label": label}
        for text, label in (("pain", "entailment"), ("cough", "neutral"), ("joy", "contradiction"))
    ],
    "summarization": [{"text": NOTE, "summary": "aspirin"}],
}


@pytest.mark.parametrize("number", range(5))
def test_the_same_figures_through_a_server(number, running, backbone, tmp_path):
    task, labels = list(http_fixtures.SHARED_ADAPTERS.items())[number]
    data, records = tmp_path / "data.jsonl", tmp_path / "records.jsonl"
    write_rows(data, ({"id": str(i), **row} for i, row in enumerate(DATA[task])))
    examples = read_dataset(data, task).examples
    model = PromptedBackbone(backbone, dtype=torch.float32)
    composed = compose(metaprompt(), package(task, labels, number).factor)
    here = evaluate(model, composed, make_task(task, labels), examples)

    key = running.key("hospital")
    done = CliRunner().invoke(
        app,
        [
            *("evaluate", f"tiny-{task}", str(data), "--server", running.url, "--key", key),
            *("--task", task, "--records", str(records)),
        ],
    )

    assert 0 == done.exit_code, done.output
    for metric, value in here.scores.metrics.items():
        assert f"{metric} {value:.4f}" in done.output
    assert f"{here.scores.num_unread} of {len(examples)} not clean" in done.output
    readings = [json.loads(row)["reading"] for row in records.read_text().splitlines()]
    assert [answer.reading for answer in here.answers] == readings


def test_what_the_server_refuses_is_told(running, tmp_path):
    data = tmp_path / "data.jsonl"
    write_rows(data, [{"id": "1", **DATA["ner"][0]}])
    key = running.key("hospital")

    def run(adapter):
        arguments = ["evaluate", adapter, str(data), "--server", running.url, "--key", key]
        return CliRunner().invoke(app, [*arguments, "--task", "ner"])

    assert "no-such" in run("no-such").output
    assert 1 == run("no-such").exit_code
    assert 1 == run("tiny-nli").exit_code
