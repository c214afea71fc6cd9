"""Many streams at once say what is said whole, and are counted right."""

import asyncio
from typing import Any

import openai
import pytest

from galenic_adapters.backbone.encode import encode
from galenic_adapters.tasks.base import Message
from tests.support.serving import Running

NUM_REQUESTS = 200
AT_ONCE = 64
MODELS = ("tiny-llama", "tiny-ner", "tiny-re", "tiny-qa", "tiny-nli", "tiny-summarization")
BRIEF = "Be brief."


def request(i: int) -> dict[str, Any]:
    """The *i*-th: another adapter, another text, another length; every fourth is drawn."""
    text = f"Note {i}: " + "denies chest pain. " * (i % 5)
    drawn = {"temperature": 1.0, "seed": i} if i % 4 == 0 else {}
    messages = [{"role": "system", "content": BRIEF}, {"role": "user", "content": text}]
    return {
        "model": MODELS[i % len(MODELS)],
        "messages": messages,
        "max_tokens": 4 + i % 13,
        **drawn,
    }


@pytest.fixture(scope="module")
def answers(vllm_running: Running) -> list[tuple[Any, str, Any]]:
    """Each request's reply whole, its deltas put together, and the stream's usage."""

    async def all_of_them() -> list[tuple[Any, str, Any]]:
        url, key = f"{vllm_running.url}/v1", vllm_running.key("north")
        turn = asyncio.Semaphore(AT_ONCE)
        async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:

            async def both(i: int) -> tuple[Any, str, Any]:
                async with turn:
                    whole = await client.chat.completions.create(**request(i))
                    text, usage = "", None
                    stream = await client.chat.completions.create(
                        **request(i), stream=True, stream_options={"include_usage": True}
                    )
                    async for chunk in stream:
                        text += "".join(one.delta.content or "" for one in chunk.choices)
                        usage = chunk.usage or usage
                    return whole, text, usage

            return await asyncio.gather(*map(both, range(NUM_REQUESTS)))

    return asyncio.run(all_of_them())


class TestTwoHundredAtOnce:
    def test_deltas_are_the_text(self, answers: list[tuple[Any, str, Any]]):
        """
        Deltas add up to the text for every adapter, greedy or drawn, in any batch.
        """
        assert [whole.choices[0].message.content for whole, _, _ in answers] == [
            text for _, text, _ in answers
        ]

    def test_usage_is_of_the_texts_tokens(
        self, answers: list[tuple[Any, str, Any]], vllm_running: Running
    ):
        """
        Whole or streamed: as many as the chat template makes of the messages, and none more.
        """
        tokenizer = vllm_running.parts.service.engine.tokenizer
        for i, (whole, _, usage) in enumerate(answers):
            messages = [Message(**message) for message in request(i)["messages"]]
            expected = len(encode(tokenizer, messages))
            lengths = {whole.usage.completion_tokens, usage.completion_tokens}

            assert expected == whole.usage.prompt_tokens == usage.prompt_tokens
            assert 1 == len(lengths)
            if whole.choices[0].finish_reason == "length":
                assert {request(i)["max_tokens"]} == lengths
