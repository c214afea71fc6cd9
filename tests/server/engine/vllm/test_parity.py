"""vLLM says what transformers says, with prompts at the input and of every layer, under scales."""

import pytest

from galenic_adapters.shape import PLACES
from tests.support.engines import RunningEngine, running
from tests.support.tiny_models import tiny_gpt_oss, tiny_llama

SMALLEST_DIFFERENCE = 1e-3  # of log-probabilities, in float32
TEXTS = ("Denies chest pain.", "BP 120/80, afebrile. Started on 5 mg of warfarin for AF." * 6)


def assert_parity(vllm: RunningEngine, reference: RunningEngine) -> None:
    """
    Every kind of adapter and none, texts that are read in one step and in two, all in one batch;
    cold, then cached.
    """

    def requests(engine: RunningEngine):
        kinds = engine.adapters.kinds
        if engine.engine.config.places == PLACES:
            kinds.append(engine.adapters.add_scales(*PLACES, seed=11))
        for text in TEXTS:
            for adapter in kinds:
                for max_tokens in (1, 12):
                    yield engine.request(text, adapter=adapter, max_tokens=max_tokens)

    expected = [reference.ask_all(request)[0] for request in requests(reference)]
    cold = vllm.ask_all(*requests(vllm))
    warm = vllm.ask_all(*requests(vllm))

    assert len({answer.text for answer in expected}) > len(expected) // 2 - 4
    for said in (cold, warm):
        assert [answer.text for answer in expected] == [answer.text for answer in said]
        assert [answer.logprob for answer in expected] == pytest.approx(
            [answer.logprob for answer in said], abs=SMALLEST_DIFFERENCE
        )
    assert all(answer.num_cached_tokens > 0 for answer in warm[len(expected) // 2 :])


class TestLlama:
    def test_parity(self, vllm_engine, transformers_engine):
        assert_parity(vllm_engine, transformers_engine)

    def test_of_texts_that_end_a_block_which_the_prompt_began(
        self, vllm_engine, transformers_engine
    ):
        """
        A prompt of 24 positions leaves the rest of its block to each text, which begins as others
        do.
        """

        def requests(engine: RunningEngine):
            for i in range(4):
                adapter = engine.adapters.prompts["short"]
                yield engine.request(f"{TEXTS[0]} Number {i}.", adapter=adapter)

        expected, one_by_one = (
            [engine.ask_all(request)[0].text for request in requests(engine)]
            for engine in (transformers_engine, vllm_engine)
        )
        at_once = [answer.text for answer in vllm_engine.ask_all(*requests(vllm_engine))]

        assert expected == one_by_one == at_once


PENALTIES = (
    {},
    {"presence_penalty": 1.5},
    {"frequency_penalty": -1.0},
    {"repetition_penalty": 1.8},
)
ALL_PENALTIES = {"presence_penalty": -0.5, "frequency_penalty": 1.2, "repetition_penalty": 0.7}


class TestPenalties:
    def test_count_the_text_and_what_was_said(self, vllm_engine, transformers_engine):
        """
        In one burst of short and long texts, bare and with every kind of adapter, each kind of
        penalty beside all three and none: what transformers says of each alone, which counts no
        prompt.
        """

        def requests(engine: RunningEngine):
            for text in TEXTS:
                for kind in engine.adapters.kinds:
                    for penalty in (*PENALTIES, ALL_PENALTIES):
                        yield engine.request(text, adapter=kind, max_tokens=24, **penalty)

        expected = [
            transformers_engine.ask_all(request)[0] for request in requests(transformers_engine)
        ]
        said = vllm_engine.ask_all(*requests(vllm_engine))

        assert [answer.text for answer in expected] == [answer.text for answer in said]
        assert len({answer.text for answer in expected}) > len(expected) // 2


@pytest.mark.slow
class TestOtherBackbones:
    """
    The same parity, each with an engine of its own.
    """

    def test_tied_llama_compiled(self, tmp_path):
        """
        One matrix embeds and reads out, inside torch.compile as it is served.
        """
        tiny_llama(tmp_path, tied=True)
        with (
            running("transformers", tmp_path) as reference,
            running("vllm", tmp_path, enforce_eager=False) as vllm,
        ):
            assert_parity(vllm, reference)

    def test_gpt_oss(self, tmp_path):
        """
        Mixture of experts, attention sinks, and a sliding window shorter than prompt and text,
        whose blocks are given up where it has passed.
        """
        tiny_gpt_oss(tmp_path)
        with (
            running("transformers", tmp_path, places=PLACES) as reference,
            running("vllm", tmp_path, places=PLACES) as vllm,
        ):
            assert_parity(vllm, reference)

    def test_llama_in_two_tensor_parallel_shards(self, llama, scarce_reference):
        """
        Each shard keeps its own heads of every prompt, and its part of every scale.
        """
        with running("vllm", llama, tensor_parallel_size=2, places=PLACES) as vllm:
            assert_parity(vllm, scarce_reference)
