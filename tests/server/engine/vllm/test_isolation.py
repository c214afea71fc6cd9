"""What tenants cannot learn of each other, and cannot do to each other, on real vLLM."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from galenic_server.engine.contract import AnyTime, Pass, Work
from galenic_server.engine.vllm.engine import cache_salt
from tests.support.engines import RunningEngine

LONG = "Seen by both before. " * 8


class TestTheCache:
    def test_one_prompt_by_two_tenants_shares_nothing(self, vllm_engine: RunningEngine):
        """
        Not one token of B's is found in the cache, by its own count or by the engine's; so there is
        nothing that B's first token could come sooner by. A itself finds its own.
        """
        for adapter in (None, vllm_engine.adapters.prompts["deep"]):
            ask = {"text": f"{adapter} {LONG}", "adapter": adapter}
            first = vllm_engine.ask(**ask, tenant="A")
            before = hits(vllm_engine)
            others = vllm_engine.ask(**ask, tenant="B")
            after = hits(vllm_engine)
            again = vllm_engine.ask(**ask, tenant="A")

            assert first.text == others.text == again.text
            assert (0, 0, before) == (first.num_cached_tokens, others.num_cached_tokens, after)
            assert again.num_cached_tokens > 0

    def test_what_is_reported_as_cached_is_ones_own(self, vllm_engine: RunningEngine):
        """
        A asks a longer text that begins as B's did: only what A asked before is counted.
        """
        mine, theirs = "Mine alone, and quite long enough. " * 3, "Nobody else has asked this. " * 6
        vllm_engine.ask(mine, tenant="A")
        own = vllm_engine.ask(mine, tenant="A").num_cached_tokens
        vllm_engine.ask(mine + theirs, tenant="B")
        longer = vllm_engine.ask(mine + theirs, tenant="A")

        assert 0 < own < len(mine)
        assert longer.num_cached_tokens <= len(mine)

    def test_the_salt_is_no_ones_to_guess(self):
        """
        It is keyed by the server's secret, and names cannot be put together to another's.
        """
        salts = {
            cache_salt(b"secret", tenant, adapter)
            for tenant, adapter in (("a", None), ("a", "b"), ("ab", None), ("a:b", None), ("", "a"))
        }

        assert 5 == len(salts)
        assert cache_salt(b"other", "a", None) not in salts
        assert all(len(one) == 64 for one in salts)

    def test_an_adapter_uploaded_again_is_not_the_old_one(
        self, vllm_engine: RunningEngine, transformers_engine: RunningEngine
    ):
        """
        Ten versions in turn for one text, the old one evicted each time: each answer is the new
        one's, and nothing of the old is found in the cache.
        """
        for _ in range(10):
            version = vllm_engine.adapters.add()
            transformers_engine.adapters.put(vllm_engine.adapters[version])
            answers = [vllm_engine.ask(LONG, adapter=version, tenant="A") for _ in range(2)]
            expected = transformers_engine.ask(LONG, adapter=version)
            vllm_engine.run(vllm_engine.engine.evict(version))

            assert [expected.text] * 2 == [answer.text for answer in answers]
            assert 0 == answers[0].num_cached_tokens < answers[1].num_cached_tokens


def hits(engine: RunningEngine) -> int:
    return engine.run(engine.engine.stats()).prefix_hits


class TestABlock:
    def test_is_free_once_its_reader_left(self, vllm_engine: RunningEngine):
        """
        vLLM resets its cache only where no block is in use: not while one reads, and soon after. It
        does not go on for the rest of what they had asked for.
        """

        async def leave() -> list[bool]:
            llm = vllm_engine.engine.core.llm
            answers = [
                vllm_engine.engine.generate(vllm_engine.request(LONG, adapter=kind, max_tokens=200))
                for kind in vllm_engine.adapters.kinds
            ]
            for answer in answers:
                await anext(answer)
            seen = [await llm.reset_prefix_cache()]
            for answer in answers:
                await answer.aclose()
            seen.append(llm.get_num_unfinished_requests() == 0)
            for _ in range(100):
                if await llm.reset_prefix_cache():
                    return [*seen, True]
                await asyncio.sleep(0.05)
            return [*seen, False]

        assert [False, True, True] == vllm_engine.run(leave())


class ByLength:
    """A gate that knows a request's priority by how long an answer it asks for."""

    @asynccontextmanager
    async def enter(self, work: Work) -> AsyncIterator[Pass]:
        yield Numbered(PRIORITIES[work.max_tokens])


class Numbered(AnyTime):
    def __init__(self, priority: int) -> None:
        self.priority = priority


PRIORITIES = {250: 50, 4: 90, 5: 30, 6: 10, 7: 20}  # by the number of tokens asked for


class TestAPass:
    def test_of_a_lower_number_goes_first_in_vllm_too(self, vllm_engine: RunningEngine):
        """
        With every place taken, who has the lower priority starts first, whoever came before.
        """
        engine: Any = vllm_engine.engine
        gate, engine.gate = engine.gate, ByLength()
        order: list[int] = []

        async def ask(num_tokens: int) -> None:
            request = vllm_engine.request(max_tokens=num_tokens)
            async for _ in engine.generate(request):
                if num_tokens not in order or num_tokens == 250:
                    order.append(num_tokens)

        async def story() -> None:
            crowd = [asyncio.create_task(ask(250)) for _ in range(32)]
            while len(order) < 32:  # noqa: ASYNC110  all of vLLM's places are taken
                await asyncio.sleep(0.005)
            await asyncio.gather(*crowd, *map(ask, (4, 5, 6, 7)))

        try:
            vllm_engine.run(story())
        finally:
            engine.gate = gate
        late = [PRIORITIES[num_tokens] for num_tokens in order if num_tokens != 250]
        assert [10, 20, 30, 90] == late
