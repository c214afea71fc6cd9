"""A tiny server for other people's tests, and the environment that those run in."""

import json
import os
from pathlib import Path

import pytest

from galenic_adapters.refs import SHARED
from tests.support.serving import Running, package
from tests.third_party.tools import Tools

ROOT = Path(__file__).parents[2]
OPENAIS_MODELS = ("gpt-6-astra", "gpt-3.5-turbo-instruct")
"""What the tests of OpenAI's client call a model."""


@pytest.fixture(scope="session")
def server(vllm_running: Running) -> Running:
    for seed, name in enumerate(OPENAIS_MODELS):
        vllm_running.publish(SHARED, name, package("summarization", (), 90 + seed))
    return vllm_running


@pytest.fixture(scope="session")
def tools(server: Running) -> Tools:
    """The environment of `make test-third-party`; elsewhere by THIRD_PARTY."""
    folder = Path(os.environ.get("THIRD_PARTY", ROOT / ".venv-third-party"))
    assert (folder / "bin/python").exists(), f"{folder} is set up by `make test-third-party`"
    quote, brace, three = server.parts.service.engine.tokenizer.encode('"}3')
    environment = {
        "BIAS": json.dumps({quote: 100, brace: 50, three: 25}),
        "OPENAI_BASE_URL": f"{server.url}/v1",
        "OPENAI_API_KEY": server.key("north"),
        "MODEL": "tiny-summarization",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # nothing here asks the internet
    }
    return Tools(folder, environment)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many of other people's tests ran, and which were left out."""
    for outcome in ("passed", "skipped"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                terminalreporter.write_line(f"{name}: {value}")
