"""LangChain's standard tests of a chat model, with ChatOpenAI before our server."""

import json
import os

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


class TestChatOpenAI(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, object]:
        return {
            "model": os.environ["MODEL"],
            "base_url": os.environ["OPENAI_BASE_URL"],
            "api_key": os.environ["OPENAI_API_KEY"],
            "max_tokens": 256,
            "max_retries": 0,
            # Random weights end neither a string nor a list of calls by themselves, nor know they
            # that the number asked for is 3.
            "logit_bias": json.loads(os.environ["BIAS"]),
            "model_kwargs": {"parallel_tool_calls": False},
            "stream_usage": True,
        }
