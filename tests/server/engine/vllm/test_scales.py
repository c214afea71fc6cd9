"""Scales at every place, and prompts before them, where vLLM is short of everything."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from galenic_adapters.backbone.scaling import scaled
from galenic_adapters.factor import Composed
from galenic_adapters.shape import PLACES
from galenic_adapters.tasks.base import Choice
from galenic_server.engine.contract import Api, Call
from galenic_server.engine.transformers.decoding import Tuning
from galenic_server.engine.vllm.scales import shard_of
from tests.support.engines import RunningEngine

SETS = (PLACES, ("k", "v", "f"), ("q",), ("k",), ("v",), ("o", "f"))
TEXT = "Denies chest pain."
ADAPTERS = (1, 7, 9, -1)
"""Of `add_all`: scales, rows, a deep prompt, and scales behind rows."""


def add_all(engine: RunningEngine) -> list[str | None]:
    """No adapter, one for each set of places, each prompt, and two that scale behind one."""
    adapters = engine.adapters
    scales = [adapters.add_scales(*places, seed=seed) for seed, places in enumerate(SETS)]
    behind = [
        adapters.add("short", seed=0, **adapters.random_scales(*PLACES, seed=seed))
        for seed in (7, 8)
    ]
    return [None, *scales, *adapters.prompts.values(), *behind]


class TestAMixedBatch:
    def test_says_what_transformers_says(self, scarce, scarce_reference):
        """
        Of 48 requests of two tenants that ask at once for more than twice the blocks that there
        are, texts are read in parts, and some are preempted and read again; more adapters than
        slots, and more prompts than there is room for. Cold, then again from the cache.
        """
        adapters = add_all(scarce)
        assert adapters == add_all(scarce_reference)
        cases = [
            (f"{i}: {TEXT} " * (1 + i % 4 * 3), adapters[i % len(adapters)], tenant)
            for i in range(2 * len(adapters))
            for tenant in ("north", "south")
        ]

        def requests(of: RunningEngine):
            for text, adapter, tenant in cases:
                yield of.request(text, adapter=adapter, tenant=tenant, max_tokens=64)

        expected = [scarce_reference.ask_all(request)[0] for request in requests(scarce_reference)]
        cold, warm = (scarce.ask_all(*requests(scarce)) for _ in range(2))
        config = scarce.engine.core.llm.vllm_config.cache_config
        num_tokens = sum(one.num_prompt_tokens + one.num_completion_tokens for one in expected)

        assert num_tokens > 2 * config.num_gpu_blocks * config.block_size
        assert len({answer.text for answer in expected}) == len(cases) // 2
        for said in (cold, warm):
            assert [answer.text for answer in expected] == [answer.text for answer in said]
            assert [answer.logprob for answer in expected] == pytest.approx(
                [answer.logprob for answer in said], abs=1e-3
            )


class TestAShard:
    @pytest.mark.parametrize(
        ("place", "of_ranks"),
        [
            ("q", [(0, 64), (64, 128), (128, 192), (192, 256)]),
            ("k", [(0, 32), (0, 32), (32, 64), (32, 64)]),
            ("o", [(0, 64), (64, 128), (128, 192), (192, 256)]),
            ("f", [(0, 96), (96, 192), (192, 288), (288, 384)]),
        ],
    )
    def test_is_what_its_rank_computes(self, place, of_ranks):
        """
        Eight query heads and two key heads of size 32 over four ranks, two of which have the same
        key head.
        """
        qkv = SimpleNamespace(num_heads=2, num_kv_heads=1, num_kv_head_replicas=2, head_size=32)
        rows = SimpleNamespace(input_size_per_partition=64)
        attention = SimpleNamespace(qkv_proj=qkv, o_proj=rows)
        mlp = SimpleNamespace(down_proj=SimpleNamespace(input_size_per_partition=96))

        assert of_ranks == [
            (shard.start, shard.stop)
            for shard in (shard_of(place, mlp, attention, rank) for rank in range(4))
        ]

    def test_of_experts_is_the_whole_on_every_rank(self):
        """
        What they give together has been summed over the ranks before it is scaled.
        """
        attention, mlp = SimpleNamespace(qkv_proj=None), SimpleNamespace(hidden_size=64)

        assert [slice(0, 64)] * 2 == [shard_of("f", mlp, attention, rank) for rank in (0, 1)]


class TestASlot:
    def test_holds_nothing_of_who_sat_there_before(self, scarce, scarce_reference):
        """
        Twenty adapters, each of other places than the one before in its slot, one after another.
        """
        for seed in range(20):
            places = SETS[seed % len(SETS)]
            said, expected = (
                it.ask(adapter=it.adapters.add_scales(*places, seed=100 + seed))
                for it in (scarce, scarce_reference)
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

    @pytest.mark.parametrize("at", ADAPTERS)
    def test_gives_several_answers(self, scarce, at):
        """
        All by the same adapter: each of three is what its seed alone draws.
        """
        adapter = add_all(scarce)[at]
        reply = self.answer(scarce, adapter, n=3, temperature=1.0, seed=5)
        alone = [
            scarce.ask(TEXT, adapter=adapter, ignore_end=True, temperature=1.0, seed=seed).text
            for seed in (5, 6, 7)
        ]

        assert alone == [choice["text"] for choice in reply["choices"]]

    @pytest.mark.parametrize("at", ADAPTERS)
    def test_streams(self, scarce, at):
        """
        The pieces are the whole.
        """
        adapter = add_all(scarce)[at]
        events = self.answer(scarce, adapter, stream=True)
        pieces = [json.loads(event[6:]) for event in events if event.startswith("data: {")]
        said = "".join(choice["text"] for piece in pieces for choice in piece["choices"])

        assert scarce.ask(TEXT, adapter=adapter, ignore_end=True).text == said

    @pytest.mark.parametrize("at", ADAPTERS)
    @pytest.mark.parametrize("text", [TEXT, TEXT * 8])
    def test_tells_how_likely_the_text_is(self, scarce, llama, at, text):
        """
        Each token as transformers has it with this adapter, read in one step or in several, of two
        answers; of the first, nothing. What the cache holds of the text is read again.
        """
        digest = add_all(scarce)[at]
        asked = {"prompt": text, "echo": True, "logprobs": 0, "max_tokens": 1}
        reply = self.answer(scarce, digest, **asked, n=2, temperature=1.0)
        ids = scarce.engine.tokenizer.encode(text)
        expected = likelihoods(llama, scarce.adapters[digest], ids)

        for choice in reply["choices"]:
            told = choice["logprobs"]["token_logprobs"]
            assert told[0] is None
            assert expected == pytest.approx(told[1 : len(ids)], abs=1e-3)


def likelihoods(folder: Path, adapter: Composed, ids: list[int]) -> list[float]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    offsets = {place: scale - 1 for place, scale in adapter.scales.items()}
    with torch.inference_mode():
        cache = Tuning(adapter.prompt).cache(model)
        with scaled(model, tuple(offsets), lambda place, layer: offsets[place][layer, None]):
            logits_TV = model(torch.tensor([ids]), past_key_values=cache).logits[0]
    logprobs_TV = logits_TV[:-1].log_softmax(-1)
    told: list[float] = logprobs_TV.gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1).tolist()
    return told


class TestAConstraint:
    def test_holds_under_scales(self, scarce, scarce_reference):
        """
        The same label as the reference's, with the same probability.
        """
        labels = Choice(("yes", "no", "perhaps"))
        for mine, its in zip(add_all(scarce), add_all(scarce_reference), strict=True):
            said = scarce.ask(adapter=mine, constraint=labels)
            expected = scarce_reference.ask(adapter=its, constraint=labels)

            assert expected.text == said.text
            assert expected.logprob == pytest.approx(said.logprob, abs=1e-3)
