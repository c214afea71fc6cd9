"""On the real backbone, vLLM says of every adapter what transformers says."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch

from galenic_adapters.backbone import encode as chat
from galenic_adapters.factor import Composed, Factor, compose
from galenic_adapters.tasks.base import Completion, Message
from galenic_server.engine.contract import EngineConfig, Request
from galenic_server.engine.make import make_engine
from tests.support.engines import RunningEngine
from tests.support.real_server import Zoo

SMALLEST_DIFFERENCE = 1e-3  # of first-token log-probabilities
NUM_TOKENS = 16
TEXTS = (
    "Denies chest pain.",
    (
        "62-year-old man with atrial fibrillation on 5 mg of warfarin daily, INR 3.4 today. "
        "He reports two episodes of epistaxis, no melena, no headache. BP 142/88, afebrile."
    ),
)
Case = tuple[str | None, str, int]  # adapter, text, tokens
ORDER = Message("system", "Say what the note means for the patient.")


@pytest.fixture(scope="module")
def adapters(zoo: Zoo) -> dict[str, Composed]:
    """Random factors of every form, and every adapter of the zoo."""
    made = torch.Generator().manual_seed(5)
    keys, values = torch.randn(2, 30, 24, 192, generator=made) * 0.5
    rows_PD = torch.randn(40, 576, generator=made) * 0.1
    factors = {
        "scales": zoo.random_factor(seed=1),
        "rows": Factor(rows_PD=rows_PD),
        "deep": Factor(keys_LPW=keys, values_LPW=values),
    }
    random = {name: compose(zoo.metaprompt, one) for name, one in factors.items()}
    return random | {name: zoo.fit.composed(package) for name, package in zoo.packages.items()}


@contextmanager
def started(kind: str, zoo: Zoo, adapters: dict[str, Composed]) -> Iterator[RunningEngine]:
    """float32; uncompiled, which halves the time (tiny models are compared compiled)."""
    config = EngineConfig(str(zoo.backbone.path), b"a secret", dtype="float32", enforce_eager=True)

    def known(digests: Sequence[str]) -> dict[str, Composed]:
        return {digest: adapters[digest] for digest in digests if digest in adapters}

    engine = make_engine(kind, config, known)
    with asyncio.Runner() as runner:
        runner.run(engine.start())
        try:
            yield RunningEngine(kind, engine, None, runner)
        finally:
            runner.run(engine.stop())


@pytest.mark.slow
class TestTheRealBackbone:
    def test_parity(self, zoo: Zoo, adapters: dict[str, Composed]):
        """
        Bare, every form and the whole zoo, short and long, all in one batch; then again
        from a warm prefix cache: the same 16 tokens, the same first log-probability,
        on which no two adapters agree.
        """
        cases: list[Case] = [
            (adapter, text, num_tokens)
            for adapter in (None, *adapters)
            for text in TEXTS
            for num_tokens in (1, NUM_TOKENS)
        ]

        def requests(engine: RunningEngine) -> Iterator[Request]:
            for adapter, text, num_tokens in cases:
                ids = chat.encode(engine.engine.tokenizer, (ORDER, Message("user", text)))
                yield engine.request(
                    adapter=adapter, text_ids=ids, max_tokens=num_tokens, ignore_end=True
                )

        with started("transformers", zoo, adapters) as reference:
            expected = [reference.ask_all(request)[0] for request in requests(reference)]
        with started("vllm", zoo, adapters) as vllm:
            cold = vllm.ask_all(*requests(vllm))
            warm = vllm.ask_all(*requests(vllm))

        assert all(
            answer.num_cached_tokens > 0
            for answer, (_, text, _) in zip(warm, cases, strict=True)
            if text == TEXTS[1]
        )
        distinct = {round(first, 4) for first in _firsts(cases, expected)}
        assert len(distinct) == len(TEXTS) * (len(adapters) + 1)
        for said in (cold, warm):
            assert list(map(_told, expected)) == list(map(_told, said))
            assert _firsts(cases, expected) == pytest.approx(
                _firsts(cases, said), abs=SMALLEST_DIFFERENCE
            )


def _told(answer: Completion) -> tuple[str, int, str]:
    return answer.text, answer.num_completion_tokens, answer.finish


def _firsts(cases: list[Case], answers: list[Completion]) -> list[float]:
    """The log-probabilities of the first tokens."""
    return [
        answer.logprob
        for (_, _, num_tokens), answer in zip(cases, answers, strict=True)
        if num_tokens == 1 and answer.logprob is not None
    ]
