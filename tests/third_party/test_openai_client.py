"""OpenAI's own client, tested by its own tests."""

import pytest

from tests.support.serving import Running
from tests.third_party.tools import Tools

pytestmark = pytest.mark.third_party

SUITE = "openai-suite"  # the client's source distribution, of the client's version
RESOURCES = "tests/api_resources"
# An echoed text's first token has no probability, as with OpenAI; the client's mock gives it one.
FIRST_TOKENS = [
    f"--deselect={RESOURCES}/test_completions.py::{suite}::{test}"
    for suite in ("TestCompletions", "TestAsyncCompletions")
    for test in ("test_method_create_with_all_params_overload_1",)
]


class TestItsSuite:
    @pytest.mark.parametrize(
        ("files", "chosen", "least"),
        [
            (["test_models.py"], "not delete", 35),
            (["test_completions.py", "chat/test_completions.py"], "create", 75),
        ],
        ids=["models", "completions and chat"],
    )
    def test_passes(
        self,
        server: Running,
        tools: Tools,
        record_property: pytest.FixtureRequest,
        files: list[str],
        chosen: str,
        least: int,
    ):
        """
        Whole and streamed, blocking and not, with every parameter that the API has.
        """
        counts = tools.pytest(
            *(f"{RESOURCES}/{name}" for name in files),
            "-k",
            chosen,
            *FIRST_TOKENS,
            "-o",
            "addopts=",
            cwd=tools.folder / SUITE,
            TEST_API_BASE_URL=f"{server.url}/v1",
        )
        record_property("openai-python", counts)

        assert {"passed", "deselected"} >= counts.keys()
        assert counts["passed"] >= least
