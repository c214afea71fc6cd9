"""OpenAI's own client, tested by its own tests."""

import pytest

from tests.third_party.tools import Tools

pytestmark = pytest.mark.third_party

SUITE = "openai-suite"  # unpacked from the client's source distribution, of the client's version


class TestItsSuite:
    @pytest.mark.parametrize(
        ("of", "chosen", "least"),
        [
            (["test_models.py"], "not delete", 14),
            (["test_completions.py", "chat/test_completions.py"], "create", 72),
        ],
        ids=["models", "completions and chat"],
    )
    def test_passes(self, server, tools: Tools, record_property, of, chosen, least):
        """
        Whole and streamed, blocking and not; with all parameters that the API has.
        """
        files = [f"tests/api_resources/{name}" for name in of]
        counts = tools.pytest(
            *files, "-k", chosen, cwd=tools.folder / SUITE, TEST_API_BASE_URL=f"{server.url}/v1"
        )
        record_property("openai-python", counts)

        assert counts.keys() <= {"passed"}
        assert counts["passed"] >= least
