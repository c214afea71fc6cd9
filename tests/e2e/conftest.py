"""The zoo, and one server as `make serve` starts it, for all tests from end to end."""

from collections.abc import Iterator

import pytest

from tests.support.real_server import RealServer, Zoo, real_server


@pytest.fixture(scope="session")
def zoo() -> Zoo:
    return Zoo.shipped()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """Compiled, bfloat16, 4,096 slots: all defaults."""
    with real_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests measured, which no test judges: it depends on the machine."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
