"""Programs that speak OpenAI's API, each by its own tests or as its users run it."""

import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.serving import Running, free_port
from tests.third_party.tools import SUITES, Tools

pytestmark = pytest.mark.third_party


class TestLangChain:
    def test_finds_its_standard_chat_model(self, tools: Tools, record_property):
        """
        Its integration tests with ChatOpenAI: invoking, streaming, batches, tools, JSON schemas.
        Without those that want sense: an agent that ends, a name that is copied, an answer's style.
        """
        senseless = "not (agent_loop or unicode_tool_call or bind_runnables)"
        counts = tools.suite("langchain_suite.py", "-k", senseless)
        record_property("langchain", counts)

        assert "failed" not in counts
        assert counts["passed"] >= 34


class TestPydanticAi:
    def test_gets_what_it_asks_for(self, tools: Tools):
        """
        As a JSON schema and as a tool.
        """
        assert {"passed": 2} == tools.suite("pydantic_ai_suite.py")


class TestLiteLlm:
    @pytest.fixture
    def proxy(self, server: Running, tools: Tools, tmp_path: Path) -> Iterator[tuple[str, str]]:
        """Its proxy's address and key."""
        port, key = free_port(), f"sk-{secrets.token_hex(24)}"
        ours = {
            "model": f"openai/{tools.environment['MODEL']}",
            "api_base": tools.environment["OPENAI_BASE_URL"],
            "api_key": tools.environment["OPENAI_API_KEY"],
        }
        config = {
            "model_list": [{"model_name": "galenic", "litellm_params": ours}],
            "general_settings": {"master_key": key},
        }
        file = tmp_path / "config.yaml"
        file.write_text(json.dumps(config))
        with tools.running("litellm", "--config", file, "--host=127.0.0.1", f"--port={port}"):
            url = f"http://127.0.0.1:{port}"
            _wait_for(f"{url}/health/liveliness")
            yield f"{url}/v1", key

    def test_speaks_to_us_and_stands_before_us(self, tools: Tools, proxy: tuple[str, str]):
        """
        The library and the proxy say what we say, whole and streamed, errors by their kind.
        """
        url, key = proxy

        assert {"passed": 4} == tools.suite("litellm_suite.py", PROXY_URL=url, PROXY_KEY=key)


class TestLiteLlmsOwnTests:
    def test_pass_of_its_chat_providers(self, tools: Tools, record_property):
        """
        Those of images, sound and files are skipped by LiteLLM, as our model takes none.
        """
        fetched = tools.folder / "litellm-suite"
        folder = Path(os.environ.get("GALENIC_LITELLM_TESTS", fetched))
        if not (folder / "llm_translation/base_llm_unit_tests.py").exists():
            left_out = f"left out: {folder} holds no tests of LiteLLM's repository"
            record_property("litellm's own tests", left_out)
            pytest.skip(left_out)
        counts = tools.suite("litellm_base_suite.py", GALENIC_LITELLM_TESTS=str(folder))
        record_property("litellm's own tests", counts)

        assert "failed" not in counts
        assert counts["passed"] >= 40


class TestLmEval:
    @pytest.mark.parametrize(
        ("model", "path", "more"),
        [
            ("local-completions", "completions", "tokenizer_backend=None"),
            ("local-chat-completions", "chat/completions", ""),
        ],
    )
    def test_runs_a_task(self, tools: Tools, tmp_path: Path, model: str, path: str, more: str):
        """
        A generation task over questions made here, to its last line.
        """
        (tmp_path / "galenic_local.yaml").write_text((SUITES / "lm_eval_task.yaml").read_text())
        questions = [{"question": f"Has note {i} gout?", "answer": "yes"} for i in range(8)]
        (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
        url = tools.environment["OPENAI_BASE_URL"]
        arguments = (
            f"base_url={url}/{path},model={tools.environment['MODEL']},num_concurrent=2,"
            f"tokenized_requests=False,{more}"
        ).rstrip(",")
        said = tools.run(
            "lm_eval",
            "--model",
            model,
            "--model_args",
            arguments,
            "--tasks",
            "galenic_local",
            "--include_path",
            tmp_path,
            "--apply_chat_template" if "chat" in model else "--batch_size=1",
            cwd=tmp_path,
            HF_HUB_OFFLINE="1",
        )

        assert re.search(r"galenic_local.*exact_match", said)


def _wait_for(url: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            httpx.get(url).raise_for_status()
        except httpx.HTTPError:
            assert time.monotonic() < end, f"{url} does not answer"
            time.sleep(0.2)
        else:
            return
