"""Prompts that come to vLLM as keys and values, before texts that know nothing of them."""

import asyncio
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from galenic_adapters.factor import Composed
from galenic_server.engine.vllm.connector import NOWHERE, Load
from tests.support.prompted import Ask, PromptedVllm, prompted, said
from tests.support.tiny_models import tiny_gpt_oss

SMALLEST_DIFFERENCE = 1e-3  # of log-probabilities, in float32
SHORT, LONG = "Denies chest pain.", "BP 120/80, afebrile. Started on 5 mg of warfarin. " * 6
LENGTHS = (1, 40, 64, 100)  # in blocks of 32


def keep_all(vllm: PromptedVllm) -> list[str | None]:
    """A prompt of either kind and every length, by name, and none."""
    for num in LENGTHS:
        vllm.keep(**{f"rows{num}": vllm.rows(num), f"deep{num}": vllm.deep(num)})
    return [None, *vllm.prompts]


@pytest.fixture(scope="module")
def vllm(llama: Path) -> Iterator[PromptedVllm]:
    with prompted(llama) as engine:
        keep_all(engine)
        yield engine


def assert_parity(vllm: PromptedVllm, prompts: list[str | None], difference: float) -> None:
    """Every prompt and none, short and long texts, all in one batch; cold, then cached."""
    asks = [Ask(text, prompt) for text, prompt in product((SHORT, LONG), prompts)]
    expected = [vllm.expected(ask) for ask in asks]
    cold, warm = vllm.ask(*asks), vllm.ask(*asks)

    for outputs in (cold, warm):
        answers = [said(output) for output in outputs]
        assert [ids for ids, _ in expected] == [ids for ids, _ in answers]
        for (_, wanted), (_, got) in zip(expected, answers, strict=True):
            assert wanted == pytest.approx(got, abs=difference)
    assert len(asks) == len({tuple(ids) for ids, _ in expected})
    num_positions = [vllm.prompts[ask.prompt].num_positions if ask.prompt else 0 for ask in asks]
    assert num_positions == [output.num_cached_tokens for output in cold]
    of_long = slice(len(prompts), None)
    for num, output in zip(num_positions[of_long], warm[of_long], strict=True):
        assert num < output.num_cached_tokens


class TestParity:
    def test_of_both_kinds_and_all_lengths_at_once(self, vllm):
        """
        Beside bare requests, prompts of 1 to 100 positions say what transformers says, before texts
        that are read in one step and in several. Of what is counted as cached, the prompt is all
        where nothing is, and a part where the text was read before.
        """
        assert_parity(vllm, [None, *vllm.prompts], SMALLEST_DIFFERENCE)

    def test_of_texts_that_end_a_block_which_the_prompt_began(self, vllm):
        """
        A prompt of 40 positions leaves most of its second block to each text, whose first words are
        another's too.
        """
        asks = [Ask(f"{SHORT} Number {i}.", f"rows{LENGTHS[1]}") for i in range(4)]
        one_by_one = [said(output) for ask in asks for output in vllm.ask(ask)]
        again = [said(output) for output in vllm.ask(*asks)]

        for i, ask in enumerate(asks):
            ids, logprobs = vllm.expected(ask)
            assert ids == one_by_one[i][0] == again[i][0]
            assert logprobs == pytest.approx(one_by_one[i][1], abs=SMALLEST_DIFFERENCE)

    def test_of_a_prompt_that_is_replaced(self, vllm):
        """
        Forgotten and kept again as another, under the same name, it answers as the other; a name is
        a digest, so what another tenant is answered was never cached.
        """
        vllm.keep(changing=vllm.rows(64))
        first = vllm.ask(Ask(SHORT, "changing", "a"))
        vllm.run(vllm.llm.collective_rpc("forget_prompts", args=(["changing"],)))
        vllm.keep(changing=vllm.deep(64))
        second = vllm.ask(Ask(SHORT, "changing", "b"))

        assert said(first[0]) != said(second[0])
        assert vllm.expected(Ask(SHORT, "changing"))[0] == said(second[0])[0]


class TestAPromptThatIsNotThere:
    def test_ends_its_request_and_nobody_elses(self, vllm):
        """
        No request reads placeholders as if they were text.
        """
        vllm.prompts["nobody's"] = vllm.prompts["deep64"]
        asks = [Ask(SHORT, "deep64"), Ask(SHORT, "nobody's"), Ask(SHORT)]
        outputs = vllm.ask(*asks)
        del vllm.prompts["nobody's"]

        reasons = [output.outputs[0].finish_reason for output in outputs]
        assert ["length", "error", "length"] == reasons
        assert [] == outputs[1].outputs[0].token_ids
        assert said(outputs[0])[0] == vllm.expected(asks[0])[0]
        assert said(vllm.ask(asks[2])[0])[0] == vllm.expected(asks[2])[0]


class TestLittleMemory:
    def test_brings_prompts_again_after_a_preemption(self, vllm):
        """
        Thirty-two answers that do not fit beside each other: some are put off, and their prompts
        written again, with no trace in what they say.
        """
        params = {"max_tokens": 160}
        asks = [Ask(f"{i}. {SHORT}", prompt, params=params) for i, prompt in enumerate(TURNS)]
        apart = [said(output)[0] for i in range(0, 32, 4) for output in vllm.ask(*asks[i : i + 4])]
        vllm.run(vllm.llm.collective_rpc("count_loads"))
        together = [said(output)[0] for output in vllm.ask(*asks)]
        (num_loads,) = vllm.run(vllm.llm.collective_rpc("loads"))

        assert apart == together
        assert num_loads > sum(prompt is not None for prompt in TURNS)

    def test_is_free_again_after_readers_left(self, vllm):
        """
        Answers given up as soon as they began, some before that: no block stays in use, and the
        next ones are right.
        """

        async def leave() -> bool:
            tasks = []
            for i in range(24):
                ask = Ask(f"{i} {LONG}", TURNS[i], params={"max_tokens": 100})
                tasks.append(asyncio.create_task(vllm.answer(ask)))
                await asyncio.sleep(0.005)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for _ in range(100):
                if await vllm.llm.reset_prefix_cache():
                    return True
                await asyncio.sleep(0.05)
            return False

        assert vllm.run(leave())
        ask = Ask(SHORT, "deep100")
        assert vllm.expected(ask)[0] == said(vllm.ask(ask)[0])[0]


TURNS = [None, "rows64", "deep100", "deep40"] * 8


class TestSampling:
    def test_several_answers_share_a_prompt(self, vllm):
        """
        Three of one request are those of three requests with the seeds that follow.
        """
        drawn = {"temperature": 1.0, "seed": 5}
        (three,) = vllm.ask(Ask(SHORT, "deep64", params=drawn | {"n": 3}))
        asks = (Ask(SHORT, "deep64", params=drawn | {"seed": 5 + i}) for i in range(3))

        assert 3 == len({answer.text for answer in three.outputs})
        assert [output.outputs[0].text for output in vllm.ask(*asks)] == [
            answer.text for answer in three.outputs
        ]

    def test_a_stream_is_the_whole_in_pieces(self, vllm):
        """
        The first piece already knows nothing of the prompt.
        """
        ask = Ask(SHORT, "rows40", params={"max_tokens": 6})

        async def pieces() -> list[str]:
            outputs = vllm.outputs(ask, output_kind=RequestOutputKind.DELTA)
            return [output.outputs[0].text async for output in outputs]

        streamed = vllm.run(pieces())
        assert len(streamed) > 1
        assert vllm.ask(ask)[0].outputs[0].text == "".join(streamed)

    def test_a_format_binds_from_the_first_token(self, vllm):
        """
        The answer is a document of the schema asked for.
        """
        schema = {"type": "object", "properties": {"dose": {"enum": [1, 2]}}, "required": ["dose"]}
        schema |= {"additionalProperties": False}
        bound = StructuredOutputsParams(json=schema)
        params = {"structured_outputs": bound, "max_tokens": 60, "ignore_eos": False}
        (output,) = vllm.ask(Ask(SHORT, "deep40", params=params))

        assert json.loads(output.outputs[0].text)["dose"] in (1, 2)

    def test_penalties_count_the_text_and_what_was_said(self, vllm):
        """
        Of every kind and together, beside requests without: what the formulas say of text and
        answer alone.
        """
        kinds = (
            {},
            {"presence_penalty": 1.5},
            {"frequency_penalty": -1.0},
            {"repetition_penalty": 1.8},
            {"presence_penalty": -0.5, "frequency_penalty": 1.2, "repetition_penalty": 0.7},
        )
        asks = [
            Ask(text, prompt, params=params | {"max_tokens": 24})
            for text, prompt, params in product((SHORT, LONG), ("rows40", "deep64", None), kinds)
        ]
        expected = [vllm.expected(ask)[0] for ask in asks]

        assert expected == [said(output)[0] for output in vllm.ask(*asks)]
        assert len(asks) // 2 < len({tuple(ids) for ids in expected})

    def test_the_text_is_as_likely_as_transformers_says(self, vllm):
        """
        Asked how likely it was, each token of the text but the first is told, in texts that are
        read in one step and in several, beside others that ask nothing of the kind.
        """
        prompts = (None, "rows40", "deep64", "deep100")
        asked = {"prompt_logprobs": 0, "max_tokens": 4}
        asks = [Ask(text, prompt, params=asked) for text, prompt in product((SHORT, LONG), prompts)]
        for ask, output in zip(asks, vllm.ask(*asks, *map(Ask, (SHORT, LONG))), strict=False):
            ids = vllm.tokenizer.encode(ask.text)[1:]
            told = output.prompt_logprobs[-len(ids) :]
            logprobs = [of[id_].logprob for of, id_ in zip(told, ids, strict=True)]

            assert vllm.likelihoods(ask) == pytest.approx(logprobs, abs=SMALLEST_DIFFERENCE)


class TestALoad:
    def test_knows_the_slot_of_every_position(self):
        """
        Positions 30 to 35 of a prompt in blocks 7, 2 and 9 of 16: the end of one, the start of the
        next. Outside a window there is no block, and nothing is written.
        """
        load = Load("digest", range(30, 35), ([7, 2, 9], [None, None, 4]))

        assert [46, 47, 144, 145, 146] == list(load.slots(0, 16))
        assert [NOWHERE, NOWHERE, 64, 65, 66] == list(load.slots(1, 16))


@pytest.mark.slow
class TestOtherEngines:
    """
    The same parity, each with an engine of its own.
    """

    def test_gpt_oss(self, tmp_path):
        """
        Attention sinks, and a window shorter than the prompts and than a text, in blocks that are
        given up where it has passed.
        """
        tiny_gpt_oss(tmp_path)
        with prompted(tmp_path) as vllm:
            assert_parity(vllm, keep_all(vllm), SMALLEST_DIFFERENCE)

    def test_llama_compiled_in_two_shards(self, llama):
        """
        Each tensor-parallel worker keeps its own heads of every prompt.
        """
        with prompted(llama, tensor_parallel_size=2, enforce_eager=False) as vllm:
            assert_parity(vllm, keep_all(vllm), SMALLEST_DIFFERENCE)

    def test_a_cache_of_8_bit_floats(self, llama):
        """
        A prompt whose rows are those of words answers as if the words were in the text.
        """
        with prompted(llama, kv_cache_dtype="fp8") as vllm:
            words = torch.tensor(vllm.tokenizer.encode(LONG[:40]))
            embed = vllm.model.get_input_embeddings()
            vllm.keep(words=Composed(rows_PD=embed(words).detach()))
            before, inside = vllm.ask(Ask(SHORT, "words"), Ask(LONG[:40] + SHORT))

            (_, expected), (_, logprobs) = said(inside), said(before)
            assert expected == pytest.approx(logprobs, abs=0.05)
