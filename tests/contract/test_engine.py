"""What `Engine` promises, held against every implementation."""

import json
import math
from dataclasses import replace

import jsonschema
import pytest
import torch

from galenic_adapters.errors import BadFactor, BadInput, NotFound, TooLong, Unavailable
from galenic_adapters.factor import Composed
from galenic_adapters.tasks.base import Choice, Grammar, JsonSchema
from galenic_server.engine.make import make_engine
from tests.support.engines import CONTEXT_TOKENS, RunningEngine
from tests.support.tiny_models import NUM_POSITIONS, WIDTH


@pytest.fixture(params=["vllm", "transformers"])
def running(request: pytest.FixtureRequest) -> RunningEngine:
    return request.getfixturevalue(f"{request.param}_engine")


class TestAnAnswer:
    def test_it_depends_on_the_adapter_and_on_nothing_else(self, running):
        """
        Bare, prompts and scales say as many things, and the same again when asked at once.
        """
        adapters = running.adapters.kinds
        alone = [running.ask(adapter=adapter) for adapter in adapters]
        mixed = running.ask_all(*(running.request(adapter=adapter) for adapter in adapters))

        assert len(adapters) == len({answer.text for answer in alone})
        assert [answer.text for answer in alone] == [answer.text for answer in mixed]

    def test_its_pieces_are_the_whole(self, running):
        """
        The deltas joined are the answer, and only the last one ends it.
        """
        request = running.request(adapter=running.adapters.prompts["deep"])

        async def pieces():
            return [delta async for delta in running.engine.generate(request)]

        deltas = running.run(pieces())
        whole = running.ask(adapter=running.adapters.prompts["deep"])

        assert whole.text == "".join(delta.text for delta in deltas)
        assert whole.num_completion_tokens == sum(delta.num_tokens for delta in deltas)
        assert ["length"] == [delta.finish for delta in deltas if delta.finish]
        assert deltas[-1].finish is not None

    def test_usage_counts_the_text_and_not_the_prompt(self, running):
        """
        Rows of the prompt are no tokens of the caller's, cached or not.
        """
        for _ in range(2):
            answer = running.ask("ten tokens", adapter=running.adapters.prompts["rows"])

            assert (10, 12) == (answer.num_prompt_tokens, answer.num_completion_tokens)
            assert answer.num_cached_tokens <= 10

    def test_one_token_of_text_is_enough(self, running):
        """
        Text that is shorter than what the detokenizer looks back on.
        """
        answer = running.ask("x", adapter=running.adapters.prompts["rows"])

        assert (1, 12, "length") == (
            answer.num_prompt_tokens,
            answer.num_completion_tokens,
            answer.finish,
        )

    def test_a_stop_string_ends_it_and_is_not_in_it(self, running):
        """
        The text stops before the string, wherever its tokens end.
        """
        two_letters = Grammar('root ::= "ab" [cd] "ef" [gh]* ')
        answer = running.ask(constraint=two_letters, stop=("never", "ef"))

        assert answer.text in ("abc", "abd")
        assert answer.finish == "stop"

    def test_a_seed_repeats_it(self, running):
        """
        Drawn twice by one seed it is the same, by others it is not always.
        """
        drawn = [running.ask(temperature=1.5, top_p=0.9, seed=seed).text for seed in (1, 1, 2, 3)]

        assert drawn[0] == drawn[1]
        assert len(set(drawn)) > 1


class TestPenalties:
    def test_a_repeated_token_becomes_less_likely(self, running):
        """
        Of two letters, the one said already costs more, and the text's own letters do too.
        """
        letters = Grammar("root ::= [ab]{12}")

        def said(**penalty: float) -> str:
            return running.ask("aaaa", constraint=letters, **penalty).text

        alone, both = said(), said(frequency_penalty=2.0, presence_penalty=2.0)
        assert both.count("a") - both.count("b") in range(-4, 5)
        assert said(repetition_penalty=10.0) != alone or {"a", "b"} <= set(alone)


class TestAConstraint:
    def test_a_choice_yields_a_label(self, running):
        """
        One of the labels, whole, whatever characters they hold.
        """
        labels = ("yes", 'a "quoted" one', "back\\slash", "größer ≥ 3")
        for adapter in running.adapters.kinds:
            answer = running.ask(adapter=adapter, constraint=Choice(labels), max_tokens=40)

            assert answer.text in labels
            assert answer.finish == "stop"

    def test_a_choice_of_one_is_certain(self, running):
        """
        Log-probability is counted under the constraint: what must be said costs nothing.
        """
        answer = running.ask(constraint=Choice(("inevitable",)))

        assert answer.text == "inevitable"
        assert answer.logprob == pytest.approx(0, abs=1e-6)

    def test_labels_share_the_whole_probability(self, running):
        """
        Letters that need one token each: their probabilities, with the end after them, sum to one.
        """
        adapter = running.adapters.prompts["deep"]
        first = running.ask(adapter=adapter, constraint=Choice(("a", "b", "c")))
        others = Choice(tuple({"a", "b", "c"} - {first.text}))
        second = running.ask(adapter=adapter, constraint=others)

        assert first.logprob > math.log(1 / 3) - 1e-6
        assert second.logprob > math.log(1 / 2) - 1e-6

    def test_each_line_has_its_probability(self, running):
        """A line's tokens and its end are summed; what must be said costs nothing."""
        grammar = Grammar('root ::= ("a" | "b") "\\nmust be\\n" ("a" | "b")')
        answer = running.ask(constraint=grammar, max_tokens=40)

        first, second, third = answer.line_logprobs
        assert 0 > first >= math.log(1 / 2) - 1e-6
        assert second == pytest.approx(0, abs=1e-6)
        assert 0 > third >= math.log(1 / 2) - 1e-6

    def test_a_grammar_is_kept(self, running):
        """
        The answer is a sentence of it.
        """
        answer = running.ask(constraint=Grammar('root ::= "[" [a-c] ("," [a-c])? "]"'))

        assert answer.text.strip("[]").replace(",", "").strip("abc") == ""
        assert (answer.text[0], answer.text[-1]) == ("[", "]")

    def test_a_schema_is_kept(self, running):
        """
        The answer is a document of it.
        """
        schema = {
            "type": "object",
            "properties": {"dose": {"enum": [1, 2]}, "unit": {"enum": ["mg", "g"]}},
            "required": ["dose", "unit"],
            "additionalProperties": False,
        }
        answer = running.ask(constraint=JsonSchema(json.dumps(schema)), max_tokens=200)

        if answer.finish == "stop":
            jsonschema.validate(json.loads(answer.text), schema)
        else:
            assert answer.text.startswith("{")


BAD_REQUESTS = {
    "no text": ({"text_ids": []}, BadInput, "text"),
    "an id of another slot": ({"text_ids": [5, 10**6]}, BadInput, "1000000"),
    "a negative id": ({"text_ids": [-1]}, BadInput, "-1"),
    "no answer": ({"max_tokens": 0}, BadInput, "max_tokens"),
    "presence penalty": ({"presence_penalty": 2.5}, BadInput, "presence_penalty"),
    "frequency penalty": ({"frequency_penalty": math.nan}, BadInput, "frequency_penalty"),
    "repetition penalty": ({"repetition_penalty": 0.0}, BadInput, "repetition_penalty"),
    "negative temperature": ({"temperature": -1.0}, BadInput, "temperature"),
    "endless temperature": ({"temperature": math.inf}, BadInput, "temperature"),
    "no top_p": ({"top_p": 0.0}, BadInput, "top_p"),
    "empty stop": ({"stop": ("",)}, BadInput, "stop"),
    "huge seed": ({"seed": 2**70}, BadInput, "seed"),
    "no labels": ({"constraint": Choice(())}, BadInput, "constraint"),
    "broken grammar": ({"constraint": Grammar("root ::= (")}, BadInput, "constraint"),
    "empty grammar": ({"constraint": Grammar("")}, BadInput, "constraint"),
    "grammar without root": ({"constraint": Grammar('x ::= "a"')}, BadInput, "constraint"),
    "no JSON": ({"constraint": JsonSchema("{")}, BadInput, "constraint"),
    "no schema": ({"constraint": JsonSchema('{"type": "wish"}')}, BadInput, "constraint"),
}


LAYERS, KEYS = 2, WIDTH  # of the tiny Llama
BAD_PROMPTS = {
    "narrow rows": (Composed(torch.ones(8, 3)), rf"\(8, 3\).*\(8, {WIDTH}\)"),
    "no rows": (Composed(torch.ones(0, WIDTH)), "0 positions"),
    "too many rows": (Composed(torch.ones(511, WIDTH)), "511 positions, not 1 to 510"),
    "a layer too few": (
        Composed(prefix=(torch.ones(1, 8, KEYS), torch.ones(1, 8, KEYS))),
        rf"keys is \(1, 8, {KEYS}\).*\({LAYERS}, 8, {KEYS}\)",
    ),
    "values of another length": (
        Composed(prefix=(torch.ones(LAYERS, 8, KEYS), torch.ones(LAYERS, 9, KEYS))),
        rf"values is \({LAYERS}, 9, {KEYS}\)",
    ),
}


class TestABadRequest:
    @pytest.mark.parametrize("name", BAD_REQUESTS)
    @pytest.mark.parametrize("prompt", [None, "deep"])
    def test_it_is_refused_and_the_engine_lives(self, running, name, prompt):
        """
        One error that names the field; the next request is answered.
        """
        but, error, told = BAD_REQUESTS[name]
        adapter = running.adapters.prompts.get(prompt)

        with pytest.raises(error, match=told):
            running.ask(adapter=adapter, **but)
        assert running.run(running.engine.healthy())
        assert running.ask(adapter=adapter).finish == "length"

    def test_what_does_not_fit_the_context_is_counted(self, running):
        """
        The error tells text, prompt, answer and context in tokens; what just fits is answered.
        """
        adapter = running.adapters.prompts["rows"]
        room = CONTEXT_TOKENS - NUM_POSITIONS
        with pytest.raises(
            TooLong,
            match=f"{CONTEXT_TOKENS + 1} tokens.*{room - 7} of text, {NUM_POSITIONS} of the "
            f"adapter's prompt, 8 for the answer.*{CONTEXT_TOKENS}",
        ):
            running.ask("x" * (room - 7), adapter=adapter, max_tokens=8)

        assert running.ask("x" * (room - 8), adapter=adapter, max_tokens=8).finish == "length"
        assert running.ask("x" * (room - 7), max_tokens=8).finish == "length"

    def test_an_adapter_that_is_not_there_is_not_found(self, running):
        """
        What the store says of a digest reaches the caller.
        """
        with pytest.raises(NotFound):
            running.ask(adapter="sha256:nobody")

    @pytest.mark.parametrize(
        ("scales", "told"),
        [
            ({"k": torch.ones(2, 64)}, "'k', the places served are o, f"),
            ({"o": torch.ones(2, 65)}, r"'o' is \(2, 65\), .* \(2, 64\)"),
            ({"f": torch.ones(3, 96)}, r"'f' is \(3, 96\), .* \(2, 96\)"),
        ],
    )
    def test_a_scale_that_fits_no_layer_is_refused(self, running, scales, told):
        """
        The error names its place and what is served there.
        """
        digest = running.adapters.put(Composed(scales=scales))

        with pytest.raises(BadFactor, match=told):
            running.ask(adapter=digest)

    def test_a_place_that_does_not_exist_is_not_served(self, running):
        """
        An engine of such a configuration is not made.
        """
        with pytest.raises(BadFactor, match="no place is called 'x'"):
            make_engine(
                running.kind, replace(running.engine.config, places=("x",)), running.adapters
            )

    @pytest.mark.parametrize("name", BAD_PROMPTS)
    def test_a_prompt_that_does_not_fit_is_refused(self, running, name):
        """
        The error tells what is wrong, and the sizes that would be right.
        """
        prompt, told = BAD_PROMPTS[name]
        with pytest.raises(BadFactor, match=told):
            running.ask(adapter=running.adapters.put(prompt))


class TestAdapters:
    def test_a_deleted_one_is_forgotten(self, running):
        """
        Evicted and gone from the store, its digest is not found, although it was resident.
        """
        digest = running.adapters.add()
        running.ask(adapter=digest)
        running.adapters.remove(digest)
        running.run(running.engine.evict(digest))

        with pytest.raises(NotFound):
            running.ask(adapter=digest)

    def test_seated_ones_are_there_before_anyone_asks(self, running):
        """
        A request after `seat` loads nothing.
        """
        digests = [running.adapters.add(), running.adapters.add_scales("o", seed=16)]
        running.run(running.engine.seat(digests))
        before = running.run(running.engine.stats())
        for digest in digests:
            running.ask(adapter=digest)
        after = running.run(running.engine.stats())

        assert before.slot_loads == after.slot_loads
        assert after.resident_adapters >= 2

    def test_nobody_has_to_leave_a_full_table_unless_he_may(self, running):
        """
        What is not there or does not fit takes no place of those that are seated with it.
        """
        digests = [running.adapters.add("deep") for _ in range(16)]
        wide = running.adapters.put(Composed(torch.ones(NUM_POSITIONS, 3)))
        had_room = running.run(running.engine.seat(["nobody", wide, *digests[:3]]))
        before = running.run(running.engine.stats())
        running.ask(adapter=digests[0])
        has_room = running.run(running.engine.seat(digests, may_evict=False))
        after = running.run(running.engine.stats())

        assert had_room
        assert not has_room
        assert before.slot_evictions == after.slot_evictions
        assert after.resident_adapters == after.num_slots

    def test_there_may_be_more_than_slots(self, running):
        """
        An adapter that was evicted answers as before.
        """
        digests = [running.adapters.add(kind) for kind in ("rows", "short", "deep") * 3]
        digests += [running.adapters.add_scales("o", "f", seed=seed) for seed in range(10, 16)]
        once = [running.ask(adapter=digest).text for digest in digests]
        again = [running.ask(adapter=digest).text for digest in digests]
        stats = running.run(running.engine.stats())

        assert once == again
        assert len(digests) == len(set(once))
        assert stats.slot_evictions > 0
        assert stats.resident_adapters <= stats.num_slots


class TestLife:
    def test_closing_the_answer_gives_its_slot_back(self, running):
        """
        Eight answers left half-read hold no slot: eight other adapters find place.
        """
        digests = [running.adapters.add_scales("f", seed=seed) for seed in range(20, 28)]
        digests += [running.adapters.add() for _ in range(8)]

        async def leave_half_read():
            for digest in digests[:8]:
                request = running.request(adapter=digest, max_tokens=400)
                answer = running.engine.generate(request)
                await anext(answer)
                await answer.aclose()

        running.run(leave_half_read())
        answers = running.ask_all(*(running.request(adapter=digest) for digest in digests[8:]))

        assert ["length"] * 8 == [answer.finish for answer in answers]

    def test_before_its_start_it_is_not_there(self, running):
        """
        Unhealthy, and requests are told to come later.
        """
        unstarted = make_engine(running.kind, running.engine.config, running.adapters)

        async def ask():
            await anext(unstarted.generate(running.request()))

        assert not running.run(unstarted.healthy())
        with pytest.raises(Unavailable):
            running.run(ask())
