"""LiteLLM's own tests of a chat provider, with our server as `openai/…` and as `hosted_vllm/…`."""

import json
import os
import sys
from typing import Any

import litellm
import pytest

sys.path.insert(0, f"{os.environ['GALENIC_LITELLM_TESTS']}/llm_translation")

from base_llm_unit_tests import BaseLLMChatTest

PROVIDERS = ("openai", "hosted_vllm")
WHAT_WE_ARE = {
    "mode": "chat",
    "supports_function_calling": True,
    "supports_response_schema": True,
    "input_cost_per_token": 1e-6,
    "output_cost_per_token": 1e-6,
}


class OurServer(BaseLLMChatTest):
    provider: str

    @pytest.fixture(autouse=True)
    def _known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The tests read LiteLLM's list of models anew, and skip what it does not say of one."""
        of_litellm = litellm.get_model_cost_map
        ours = {
            f"{provider}/{os.environ['MODEL']}": WHAT_WE_ARE | {"litellm_provider": provider}
            for provider in PROVIDERS
        }
        monkeypatch.setattr(litellm, "get_model_cost_map", lambda url: of_litellm(url=url) | ours)
        monkeypatch.setattr(litellm, "model_cost", of_litellm(url="") | ours)

    def get_base_completion_call_args(self) -> dict[str, Any]:
        return {
            "model": f"{self.provider}/{os.environ['MODEL']}",
            "api_base": os.environ["OPENAI_BASE_URL"],
            "api_key": os.environ["OPENAI_API_KEY"],
            "max_tokens": 200,
            # Random weights do not end a string by themselves.
            "logit_bias": json.loads(os.environ["BIAS"]),
        }

    def test_tool_call_no_arguments(self, tool_call_no_arguments: dict[str, Any]) -> None:
        """Its own subclasses look into their translation; here the server has to take it."""
        (call,) = tool_call_no_arguments["tool_calls"]
        answer = {"role": "tool", "tool_call_id": call["id"], "content": "none"}
        asked = [{"role": "user", "content": "What is asked?"}, tool_call_no_arguments, answer]
        said = self.completion_function(**self.get_base_completion_call_args(), messages=asked)

        assert said.choices[0].message.content is not None


class TestOpenAI(OurServer):
    provider = "openai"


class TestHostedVllm(OurServer):
    provider = "hosted_vllm"
