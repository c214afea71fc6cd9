"""What more than one folder of tests needs, made once a run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import engines
from tests.support.engines import RunningEngine
from tests.support.http_fixtures import backbone, running, vllm_running  # noqa: F401  by name
from tests.support.tiny_models import tiny_llama

settings.register_profile("full", max_examples=20_000)
"""For `pytest --hypothesis-profile=full`: minutes instead of seconds."""


def pytest_configure(config: pytest.Config) -> None:
    # vLLM leaves the context of its sockets to the garbage collector.
    config.addinivalue_line("filterwarnings", "ignore:Unclosed context <zmq:ResourceWarning")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Llama."""
    folder = tmp_path_factory.mktemp("llama")
    tiny_llama(folder)
    return folder


@pytest.fixture(scope="session")
def vllm_engine(llama: Path) -> Iterator[RunningEngine]:
    """vLLM over the tiny Llama, with 8 slots."""
    with engines.running("vllm", llama) as engine:
        yield engine


@pytest.fixture(scope="session")
def transformers_engine(llama: Path) -> Iterator[RunningEngine]:
    """The reference over the same tiny Llama."""
    with engines.running("transformers", llama) as engine:
        yield engine
