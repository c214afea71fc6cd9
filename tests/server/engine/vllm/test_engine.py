"""What can go wrong with slots, caches and processes under vLLM, and does not."""

import asyncio
import os
import random
import signal
import time
from dataclasses import replace

import psutil
import pytest
from vllm import AsyncEngineArgs, SamplingParams
from vllm.inputs.engine import tokens_input
from vllm.v1.engine.async_llm import AsyncLLM

from galenic_adapters.errors import BadInput, EngineDied, NotFound, Unavailable
from galenic_server.engine.contract import complete
from galenic_server.engine.make import make_engine
from galenic_server.engine.vllm.compat import RequestRefused
from tests.support.engines import RunningEngine


def stats(engine: RunningEngine):
    return engine.run(engine.engine.stats())


class TestSlots:
    def test_sixty_four_adapters_share_eight_slots(self, vllm_engine, transformers_engine):
        """
        Each of 192 answers, all asked for at once in random order, is its own adapter's alone.
        """
        digests = [vllm_engine.adapters.add(("rows", "deep")[i % 2]) for i in range(64)]
        for digest in digests:
            transformers_engine.adapters.put(vllm_engine.adapters[digest])
        alone = {digest: transformers_engine.ask(adapter=digest).text for digest in digests}
        asked = digests * 3
        random.Random(0).shuffle(asked)

        answers = vllm_engine.ask_all(*(vllm_engine.request(adapter=it) for it in asked))

        assert 56 < len(set(alone.values()))
        assert [alone[digest] for digest in asked] == [answer.text for answer in answers]
        assert stats(vllm_engine).slot_evictions >= 56
        assert len(vllm_engine.engine.residents.loader.kept) <= stats(vllm_engine).num_slots

    def test_uploads_and_deletes_while_requests_run(self, vllm_engine, transformers_engine):
        """
        Versions come and go under sixteen callers: whoever is answered is answered by the version
        they asked for, and a deleted one is not found.
        """
        chance = random.Random(1)
        adapters = vllm_engine.adapters
        current = [adapters.add() for _ in range(16)]

        async def caller(said: list[tuple[str, str]]) -> None:
            for _ in range(8):
                digest = chance.choice(current)
                try:
                    answer = await complete(
                        vllm_engine.engine, vllm_engine.request(adapter=digest, max_tokens=6)
                    )
                except NotFound:
                    assert digest not in current
                    continue
                said.append((digest, answer.text))

        async def uploader(asked: list[asyncio.Task]) -> None:
            while not all(task.done() for task in asked):
                at = chance.randrange(len(current))
                old, current[at] = (
                    current[at],
                    adapters.add(chance.choice(("rows", "deep", "short"))),
                )
                removed[old] = adapters[old]
                adapters.remove(old)
                await vllm_engine.engine.evict(old)
                await asyncio.sleep(0.02)

        async def scenario() -> list[tuple[str, str]]:
            said: list[tuple[str, str]] = []
            asked = [asyncio.create_task(caller(said)) for _ in range(16)]
            await uploader(asked)
            await asyncio.gather(*asked)
            return said

        removed = {}
        said = vllm_engine.run(scenario())
        for adapter in (*removed.values(), *(adapters[digest] for digest in current)):
            transformers_engine.adapters.put(adapter)

        assert len(said) > 64
        assert len(removed) > 4
        for digest, text in said:
            assert transformers_engine.ask(adapter=digest, max_tokens=6).text == text


class TestASeed:
    def test_draws_the_same_where_a_text_is_read_in_parts(self, vllm_engine):
        """
        Twenty-four long texts at once fill more than one batch, so some are read in two: their
        draws are those of each alone, and the engine lives.
        """
        adapters = list(vllm_engine.adapters.prompts.values())

        def requests():
            for i in range(24):
                text = f"{i}: " + "denies pain, " * 30
                yield vllm_engine.request(
                    text, adapter=adapters[i % 3], temperature=1.0, seed=i, max_tokens=6
                )

        restarts = stats(vllm_engine).restarts
        alone = [vllm_engine.ask_all(request)[0].text for request in requests()]

        assert alone == [answer.text for answer in vllm_engine.ask_all(*requests())]
        assert restarts == stats(vllm_engine).restarts


class TestTheSize:
    @pytest.mark.parametrize("field", ["num_slots", "prompt_bytes"])
    def test_is_refused_where_it_fits_no_memory(self, vllm_engine, field):
        """
        The error has both numbers, and nothing was loaded.
        """
        config = replace(vllm_engine.engine.config, **{field: 10**12})
        with pytest.raises(BadInput, match="GiB, and may take half of"):
            make_engine("vllm", config, vllm_engine.adapters)


class TestTheCache:
    def test_a_reused_slot_meets_no_old_block(self, vllm_engine, transformers_engine):
        """
        Another adapter in the very slot that one left, with the same text: the same ids, for a
        prompt has none of its own, and yet nothing of the first is found.
        """
        first = vllm_engine.adapters.add()
        vllm_engine.ask(adapter=first)
        slot = vllm_engine.engine.residents.slots.seated()[first].slot
        vllm_engine.run(vllm_engine.engine.evict(first))
        second = vllm_engine.adapters.add()
        transformers_engine.adapters.put(vllm_engine.adapters[second])
        before = stats(vllm_engine).prefix_hits
        answer = vllm_engine.ask(adapter=second)

        assert slot == vllm_engine.engine.residents.slots.seated()[second].slot
        assert before == stats(vllm_engine).prefix_hits
        assert transformers_engine.ask(adapter=second).text == answer.text

    @pytest.mark.parametrize("kind", [0, 2, 4])
    def test_a_tenant_finds_nothing_of_anothers(self, vllm_engine, kind):
        """
        The same adapter and the same text: found for its own tenant, computed anew for another.
        """
        text = f"seen by {kind} before. " * 6
        adapter = vllm_engine.adapters.kinds[kind]
        cached = [
            vllm_engine.ask(text, adapter=adapter, tenant=tenant).num_cached_tokens > 0
            for tenant in ("north", "north", "south", "south")
        ]

        assert [False, True, False, True] == cached


class TestAnAbort:
    def test_an_answer_left_half_read_costs_no_more(self, vllm_engine):
        """
        vLLM forgets the request as soon as its reader leaves.
        """

        async def leave_half_read() -> int:
            answer = vllm_engine.engine.generate(vllm_engine.request(max_tokens=400))
            await anext(answer)
            await answer.aclose()
            return vllm_engine.engine.core.llm.output_processor.get_num_unfinished_requests()

        assert 0 == vllm_engine.run(leave_half_read())

    def test_a_cancelled_caller_gives_its_slot_back(self, vllm_engine):
        """
        It does so while it waits for the slot to be loaded, too.
        """
        digests = [vllm_engine.adapters.add() for _ in range(24)]

        async def scenario() -> None:
            made = (vllm_engine.request(adapter=it, max_tokens=300) for it in digests)
            asked = [asyncio.create_task(complete(vllm_engine.engine, it)) for it in made]
            await asyncio.sleep(0.05)
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

        vllm_engine.run(scenario())
        whole = (vllm_engine.request(adapter=it, ignore_end=True) for it in digests)
        answers = vllm_engine.ask_all(*whole)
        assert ["length"] * 24 == [answer.finish for answer in answers]


def kill_core(engine: RunningEngine) -> list[psutil.Process]:
    """End the engine's core, as a crash would; gives the processes that it had."""
    (core,) = engine.engine.core.llm.engine_core.resources.engine_manager.processes
    family = [psutil.Process(core.pid), *psutil.Process(core.pid).children(recursive=True)]
    os.kill(core.pid, signal.SIGKILL)
    return family


@pytest.mark.slow
class TestACrash:
    def test_everyone_hears_once_and_the_adapters_come_back(self, vllm_engine):
        """
        Kill -9: requests in flight end with one `EngineDied` each, callers meanwhile get
        `Unavailable` at once, and the new core holds every resident before it is healthy.
        """
        residents = [vllm_engine.adapters.add(kind) for kind in ("rows", "deep")]
        residents.append(vllm_engine.adapters.add_scales("o", "f", seed=1))
        expected = [vllm_engine.ask(adapter=digest).text for digest in residents]
        before = stats(vllm_engine)

        async def read(adapter: str | None) -> str:
            request = vllm_engine.request(adapter=adapter, max_tokens=350)
            async for _ in vllm_engine.engine.generate(request):
                started.set()
            return "finished"

        async def crash() -> tuple[list, list[psutil.Process], float]:
            readers = [asyncio.create_task(read(it)) for it in (None, *residents) * 4]
            await started.wait()
            family = kill_core(vllm_engine)
            said = await asyncio.gather(*readers, return_exceptions=True)
            assert not await vllm_engine.engine.healthy()
            with pytest.raises(Unavailable):
                await read(None)
            since = time.monotonic()
            while not await vllm_engine.engine.healthy():
                assert time.monotonic() - since < 240
                await asyncio.sleep(0.2)
            return said, family, time.monotonic() - since

        started = asyncio.Event()
        said, family, _ = vllm_engine.run(crash())
        after = stats(vllm_engine)
        again = [vllm_engine.ask(adapter=digest).text for digest in residents]

        assert [EngineDied] * 16 == [type(one) for one in said]
        assert before.restarts + 1 == after.restarts
        assert before.resident_adapters == after.resident_adapters
        assert expected == again
        assert before.slot_loads == stats(vllm_engine).slot_loads
        assert not any(one.is_running() and one.status() != "zombie" for one in family)


@pytest.mark.slow
class TestAHang:
    def test_takes_no_requests_and_becomes_a_crash(self, vllm_engine):
        """
        A worker stands still, as in a deadlock. The engine is not healthy before it gives up.
        Whoever waits for it hears `EngineDied`, a new core answers as before, and the worker that
        stood still is gone.
        """
        (core,) = vllm_engine.engine.core.llm.engine_core.resources.engine_manager.processes
        worker = next(one for one in psutil.Process(core.pid).children() if "Worker" in one.name())
        expected, before = vllm_engine.ask().text, stats(vllm_engine).restarts

        async def becomes(*, healthy: bool) -> None:
            while healthy != await vllm_engine.engine.healthy():  # noqa: ASYNC110
                await asyncio.sleep(0.2)

        async def hang() -> bool:
            worker.suspend()
            asked = vllm_engine.request(max_tokens=350)
            waiting = asyncio.ensure_future(complete(vllm_engine.engine, asked))
            await becomes(healthy=False)
            was_waiting = not waiting.done()
            with pytest.raises(EngineDied):
                await waiting
            await becomes(healthy=True)
            return was_waiting

        assert vllm_engine.run(hang())
        assert before + 1 == stats(vllm_engine).restarts
        assert expected == vllm_engine.ask().text
        assert not worker.is_running() or worker.status() == "zombie"


@pytest.mark.slow
class TestThePlugin:
    def test_plain_vllm_is_as_without_us(self, llama, transformers_engine):
        """
        An engine that asks for no layout of scales gets vLLM's own layers, answers the same, and
        refuses ids past the vocabulary.
        """
        arguments = AsyncEngineArgs(
            str(llama), dtype="float32", enforce_eager=True, kv_cache_memory_bytes=32 << 20
        )
        reference = transformers_engine.request(max_tokens=8)

        async def ask(llm: AsyncLLM, ids: list[int]) -> str:
            params = SamplingParams(temperature=0, max_tokens=8)
            async for output in llm.generate(tokens_input(ids), params, str(len(ids))):
                last = output
            return last.outputs[0].text

        async def scenario() -> str:
            llm = AsyncLLM.from_engine_args(arguments)
            try:
                with pytest.raises(RequestRefused, match="out of vocabulary"):
                    await ask(llm, [*reference.text_ids, 10**6])
                return await ask(llm, list(reference.text_ids))
            finally:
                llm.shutdown()

        assert asyncio.run(scenario()) == transformers_engine.ask_all(reference)[0].text
