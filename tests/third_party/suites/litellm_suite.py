"""OpenAI's client before LiteLLM's proxy before our server."""

import os

import litellm
import openai
import pytest

MESSAGES = [{"role": "user", "content": "He has gout."}]


@pytest.fixture(scope="module")
def proxy() -> openai.OpenAI:
    return openai.OpenAI(
        base_url=os.environ["PROXY_URL"], api_key=os.environ["PROXY_KEY"], max_retries=0
    )


def ask(stream: bool = False, **more):
    return litellm.completion(
        model=f"openai/{os.environ['MODEL']}",
        api_base=os.environ["OPENAI_BASE_URL"],
        api_key=os.environ["OPENAI_API_KEY"],
        messages=MESSAGES,
        max_tokens=12,
        stream=stream,
        **more,
    )


def test_litellm_chats_and_streams() -> None:
    whole = ask()
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask(stream=True) if chunk.choices]

    assert whole.choices[0].message.content == "".join(pieces)
    assert whole.usage.completion_tokens == 12


def test_litellm_hears_errors_by_their_kind() -> None:
    with pytest.raises(litellm.BadRequestError):
        ask(temperature=1.5, n=10**9)


def test_the_proxy_answers_as_we_do(proxy: openai.OpenAI) -> None:
    asked = {"model": "galenic", "messages": MESSAGES, "max_tokens": 12}
    whole = proxy.chat.completions.create(**asked).choices[0].message.content
    parts = proxy.chat.completions.create(**asked, stream=True)

    assert whole == ask().choices[0].message.content
    assert whole == "".join(part.choices[0].delta.content or "" for part in parts if part.choices)


def test_the_proxy_lists_us(proxy: openai.OpenAI) -> None:
    assert "galenic" in [model.id for model in proxy.models.list()]
