"""
gpt-oss over Harmony: rendered by it, with an adapter's prompt before, and its reasoning kept apart.

Harmony's vocabulary is a file that openai-harmony would fetch; LiteLLM's package holds it too.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from galenic_adapters.factor import compose
from galenic_adapters.refs import SHARED
from tests.support.serving import Running, make_parts, metaprompt, package, serving
from tests.support.tiny_models import tiny_harmony
from tests.third_party.teaching import Lesson, teach
from tests.third_party.tools import Tools

pytestmark = pytest.mark.third_party

VOCABULARY = "litellm/litellm_core_utils/tokenizers/fb374d419588a4632f3f557e76b4b70aebbca790"
ASKED = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What has he<|end|>?"},
]
REASONING, ANSWER = "The note says gout.", "He has gout."
MODELS = ["tiny-llama", "reasoner"]  # bare, by the name that these servers have for it


@pytest.fixture(scope="module")
def vocabulary(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where openai-harmony looks for it, in this process and the engine's."""
    folder = tmp_path_factory.mktemp("vocabulary")
    (found,) = tools.folder.glob(f"lib/python*/site-packages/{VOCABULARY}")
    file = folder / "o200k_base.tiktoken"
    file.write_bytes(found.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_ENCODINGS_BASE", os.fspath(folder))
        yield file


@pytest.fixture(scope="module")
def text_ids(vocabulary: Path) -> list[int]:
    """What vLLM makes of *ASKED*."""
    from vllm.entrypoints.openai.parser import harmony_utils as harmony

    preamble = harmony.build_harmony_preamble(
        instructions=ASKED[0]["content"],
        tools=None,
        reasoning_effort=None,
        with_custom_tools=False,
    )
    user = harmony.get_user_message(ASKED[1]["content"])
    return list(harmony.render_for_completion([*preamble, user]))


@pytest.fixture(scope="module")
def reasoner(
    vocabulary: Path, text_ids: list[int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A tiny gpt-oss that learned to reason and to answer, bare and behind an adapter."""
    from openai_harmony import HarmonyEncodingName, load_harmony_encoding

    said = (
        f"<|channel|>analysis<|message|>{REASONING}<|end|>"
        f"<|start|>assistant<|channel|>final<|message|>{ANSWER}<|return|>"
    )
    encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    reply_ids = encoding.encode(said, allowed_special="all")
    adapter = package("summarization", (), seed=5)
    prompt_PD = compose(metaprompt(), adapter.factor).rows_PD
    backbone = tiny_harmony(tmp_path_factory.mktemp("harmony"), vocabulary)
    teach(backbone, [Lesson(prompt, text_ids, reply_ids) for prompt in (None, prompt_PD)])
    parts = make_parts(backbone, tmp_path_factory.mktemp("home"), engine="vllm")
    with serving(parts) as running:
        running.publish(SHARED, "reasoner", adapter)
        yield running


@pytest.fixture
def client(reasoner: Running) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{reasoner.url}/v1", api_key=reasoner.key("north"), max_retries=0
    )


@pytest.mark.parametrize("model", MODELS)
class TestHarmony:
    def test_keeps_reasoning_apart(self, client: openai.OpenAI, text_ids: list[int], model: str):
        """
        The text is what Harmony renders, a control token in it being text, and an adapter's prompt
        is not counted; of the reply, content is the answer alone.
        """
        told = client.chat.completions.create(model=model, messages=ASKED, max_tokens=60)
        message = told.choices[0].message

        assert (REASONING, ANSWER) == (message.reasoning, message.content)
        assert "stop" == told.choices[0].finish_reason
        assert len(text_ids) == told.usage.prompt_tokens
        assert told.usage.completion_tokens_details.reasoning_tokens > 0

    def test_streams_them_apart(self, client: openai.OpenAI, model: str):
        """
        In deltas of their own.
        """
        stream = client.chat.completions.create(
            model=model, messages=ASKED, max_tokens=60, stream=True
        )
        deltas = [chunk.choices[0].delta for chunk in stream if chunk.choices]

        assert REASONING == "".join(getattr(delta, "reasoning", None) or "" for delta in deltas)
        assert ANSWER == "".join(delta.content or "" for delta in deltas)
