"""Scales at every place, where vLLM is short of everything: slots, blocks, and tokens a step."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from galenic_adapters.backbone.scaling import scaled
from galenic_adapters.factor import PLACES
from galenic_adapters.tasks.base import Choice
from galenic_server.engine.contract import Api, Call
from tests.support.engines import RunningEngine, running

NUM_SLOTS = 5
KV_BYTES = 2 << 20
"""64 blocks of the tiny Llama, 2,048 tokens."""
SETS = (PLACES, ("k", "v", "f"), ("q",), ("k",), ("v",), ("o", "f"))
TEXT = "Denies chest pain."


@pytest.fixture(scope="module")
def engine(llama: Path) -> Iterator[RunningEngine]:
    scarce = {"kv_cache_memory_bytes": KV_BYTES, "max_num_batched_tokens": 64}
    with running("vllm", llama, places=PLACES, num_slots=NUM_SLOTS, options=scarce) as engine:
        yield engine


@pytest.fixture(scope="module")
def reference(llama: Path) -> Iterator[RunningEngine]:
    with running("transformers", llama, places=PLACES) as engine:
        yield engine


def add_all(engine: RunningEngine) -> list[str | None]:
    """No adapter, and one for each set of places."""
    add = engine.adapters.add_scales
    return [None, *(add(*places, seed=seed) for seed, places in enumerate(SETS))]


class TestAMixedBatch:
    def test_says_what_transformers_says(self, engine, reference):
        """
        Of 28 requests of two tenants that ask at once for twice the blocks that there are, texts
        are read in parts, and some are preempted and read again; more adapters than slots. Cold,
        then again from the cache.
        """
        adapters = add_all(engine)
        assert adapters == add_all(reference)
        cases = [
            (f"{i}: {TEXT} " * (1 + i % 4 * 3), adapters[i % len(adapters)], tenant)
            for i in range(14)
            for tenant in ("north", "south")
        ]

        def requests(of: RunningEngine):
            for text, adapter, tenant in cases:
                yield of.request(text, adapter=adapter, tenant=tenant, max_tokens=64)

        expected = [reference.ask_all(request)[0] for request in requests(reference)]
        cold, warm = (engine.ask_all(*requests(engine)) for _ in range(2))
        config = engine.engine._llm.vllm_config.cache_config
        num_tokens = sum(one.num_prompt_tokens + one.num_completion_tokens for one in expected)

        assert num_tokens > 2 * config.num_gpu_blocks * config.block_size
        assert len({answer.text for answer in expected}) == len(cases) // 2
        for said in (cold, warm):
            assert [answer.text for answer in expected] == [answer.text for answer in said]
            assert [answer.logprob for answer in expected] == pytest.approx(
                [answer.logprob for answer in said], abs=1e-3
            )


class TestASlot:
    def test_holds_nothing_of_who_sat_there_before(self, engine, reference):
        """
        Twenty adapters, each of other places than the one before in its slot, one after another.
        """
        for seed in range(20):
            places = SETS[seed % len(SETS)]
            said, expected = (
                it.ask(adapter=it.adapters.add_scales(*places, seed=100 + seed))
                for it in (engine, reference)
            )
            assert expected.text == said.text


class TestOpenAIsApi:
    """
    vLLM's own handlers, which ask for more than ours.
    """

    @staticmethod
    def answer(engine: RunningEngine, adapter: str, **body: Any) -> Any:
        call = Call(
            id="call",
            tenant="north",
            model="mine",
            body={"prompt": TEXT, "max_tokens": 12, "temperature": 0, "ignore_eos": True} | body,
            text_field="prompt",
            adapter=adapter,
        )

        async def whole() -> Any:
            reply = await engine.engine.openai.answer(Api.COMPLETIONS, call)
            return reply if isinstance(reply, dict) else [event async for event in reply]

        return engine.run(whole())

    def test_gives_several_answers(self, engine):
        """
        All by the same adapter: each of three is what its seed alone draws.
        """
        adapter = add_all(engine)[1]
        reply = self.answer(engine, adapter, n=3, temperature=1.0, seed=5)
        alone = [
            engine.ask(TEXT, adapter=adapter, ignore_end=True, temperature=1.0, seed=seed).text
            for seed in (5, 6, 7)
        ]

        assert alone == [choice["text"] for choice in reply["choices"]]

    def test_streams(self, engine):
        """
        The pieces are the whole.
        """
        adapter = add_all(engine)[1]
        events = self.answer(engine, adapter, stream=True)
        pieces = [json.loads(event[6:]) for event in events if event.startswith("data: {")]
        said = "".join(choice["text"] for piece in pieces for choice in piece["choices"])

        assert engine.ask(TEXT, adapter=adapter, ignore_end=True).text == said

    def test_tells_how_likely_the_text_is(self, engine, llama):
        """
        Under the adapter, each token as transformers has it.
        """
        digest = add_all(engine)[1]
        reply = self.answer(engine, digest, echo=True, logprobs=0, max_tokens=1)
        scales = engine.adapters(digest).scales
        model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).eval()
        ids = torch.tensor(engine.engine.tokenizer.encode(TEXT))
        with torch.no_grad(), scaled(model, PLACES, lambda at, layer: scales[at][layer, None] - 1):
            logprobs_TV = model(ids[None]).logits[0].log_softmax(-1)
        expected = logprobs_TV[:-1].gather(1, ids[1:, None]).squeeze(1)

        told = reply["choices"][0]["logprobs"]["token_logprobs"]
        assert told[0] is None
        assert expected.tolist() == pytest.approx(told[1 : len(ids)], abs=1e-3)


class TestAConstraint:
    def test_holds_under_scales(self, engine, reference):
        """
        The same label as the reference's, with the same probability.
        """
        labels = Choice(("yes", "no", "perhaps"))
        for mine, its in zip(add_all(engine), add_all(reference), strict=True):
            said = engine.ask(adapter=mine, constraint=labels)
            expected = reference.ask(adapter=its, constraint=labels)

            assert expected.text == said.text
            assert expected.logprob == pytest.approx(said.logprob, abs=1e-3)
