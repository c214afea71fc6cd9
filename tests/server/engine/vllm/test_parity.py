"""vLLM says with every kind of adapter what transformers says."""

import pytest

from galenic_server.engine.contract import Engine
from tests.support.engines import RunningEngine, running
from tests.support.tiny_models import NUM_POSITIONS, tiny_gpt_oss, tiny_llama

SMALLEST_DIFFERENCE = 1e-3  # of log-probabilities, in float32
TEXTS = ("Denies chest pain.", "BP 120/80, afebrile. Started on 5 mg of warfarin for AF." * 3)


def assert_parity(vllm: RunningEngine, reference: RunningEngine) -> None:
    """Bare, prompts and scales, short and long texts, all in one batch; cold, then cached."""
    kinds = vllm.adapters.kinds
    assert kinds == reference.adapters.kinds
    cases = [(text, kind, max_tokens) for text in TEXTS for kind in kinds for max_tokens in (1, 12)]

    def requests(engine: RunningEngine):
        for text, kind, max_tokens in cases:
            yield engine.request(text, adapter=kind, max_tokens=max_tokens)

    expected = [reference.ask_all(request)[0] for request in requests(reference)]
    cold = vllm.ask_all(*requests(vllm))
    warm = vllm.ask_all(*requests(vllm))

    assert len({answer.text for answer in expected}) > len(TEXTS) * (len(kinds) - 1)
    for said in (cold, warm):
        assert [answer.text for answer in expected] == [answer.text for answer in said]
        assert [answer.logprob for answer in expected] == pytest.approx(
            [answer.logprob for answer in said], abs=SMALLEST_DIFFERENCE
        )
    assert all(answer.num_cached_tokens > 0 for answer in warm[len(cases) // 2 :])


def prefix_hits(engine: RunningEngine) -> int:
    async def hits(engine: Engine) -> int:
        return (await engine.stats()).prefix_hits

    return engine.run(hits(engine.engine))


class TestLlama:
    def test_parity(self, vllm_engine, transformers_engine):
        assert_parity(vllm_engine, transformers_engine)

    def test_a_short_text_finds_its_prompt_in_the_cache(self, vllm_engine):
        """
        All 64 rows of the prompt are whole blocks: a second text of its adapter computes none.
        """
        adapter = vllm_engine.adapters.of_rank[4]
        vllm_engine.ask("first", adapter=adapter)
        before = prefix_hits(vllm_engine)
        vllm_engine.ask("other", adapter=adapter)

        assert NUM_POSITIONS == prefix_hits(vllm_engine) - before


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
        penalty beside all three and none: what transformers says of each alone, and nobody's
        virtual ids are counted, nor end the engine.
        """
        cases = [
            (text, kind, penalty)
            for text in TEXTS
            for kind in vllm_engine.adapters.kinds
            for penalty in (*PENALTIES, ALL_PENALTIES)
        ]

        def requests(engine: RunningEngine):
            for text, kind, penalty in cases:
                yield engine.request(text, adapter=kind, max_tokens=24, **penalty)

        expected = [
            transformers_engine.ask_all(request)[0] for request in requests(transformers_engine)
        ]
        said = vllm_engine.ask_all(*requests(vllm_engine))

        assert [answer.text for answer in expected] == [answer.text for answer in said]
        assert len({answer.text for answer in expected}) > len(cases) // 2


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
        Mixture of experts, attention sinks, and a sliding window shorter than the prompt.
        """
        tiny_gpt_oss(tmp_path)
        with running("transformers", tmp_path) as reference, running("vllm", tmp_path) as vllm:
            assert_parity(vllm, reference)

    def test_llama_in_two_tensor_parallel_shards(self, llama, transformers_engine):
        """
        Each shard holds half of the vocabulary and the whole of every prompt.
        """
        with running("vllm", llama, tensor_parallel_size=2) as vllm:
            assert_parity(vllm, transformers_engine)
