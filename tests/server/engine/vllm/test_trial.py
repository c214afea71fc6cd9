"""Grammars that would end a server or hold it up, tried where they end a child instead."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from vllm.sampling_params import StructuredOutputsParams

from galenic_adapters.errors import BadInput
from galenic_server.engine.vllm.trial import Trials


class Bench:
    """Trials, asked from outside of their event loop."""

    def __init__(self, runner: asyncio.Runner, tokenizer: Any) -> None:
        self.runner = runner
        self.trials = Trials(tokenizer, len(tokenizer))

    def check(self, **asked: Any) -> None:
        self.runner.run(self.trials.check("north", StructuredOutputsParams(**asked)))

    def check_pattern(self, pattern: str) -> None:
        self.check(json=json.dumps({"type": "string", "pattern": pattern}))


@pytest.fixture(scope="module")
def bench(llama: Path) -> Iterator[Bench]:
    with asyncio.Runner() as runner:
        made = Bench(runner, AutoTokenizer.from_pretrained(llama))
        yield made
        runner.run(made.trials.stop())


class TestAGrammar:
    @pytest.mark.parametrize(
        "asked",
        [
            {"json": '{"type": "object", "properties": {"a": {"type": "string"}}}'},
            {"grammar": 'root ::= "yes" | "no"'},
            {"json_object": True},
        ],
    )
    def test_of_ordinary_kind_is_taken(self, bench: Bench, asked: dict[str, Any]):
        """
        Every kind that a request may bring is taken.
        """
        bench.check(**asked)

    def test_that_does_not_parse_is_refused(self, bench: Bench):
        """
        The compiler refuses it; its words, which quote the grammar, are not repeated.
        """
        with pytest.raises(BadInput, match=r"constraint: is not taken by the engine$"):
            bench.check(grammar='root ::= ("Wilhelmina"')

    @pytest.mark.parametrize("pattern", ["a" + "+" * 40_000, "^(a|b){1,20000}$"])
    def test_that_ends_or_holds_up_its_process_is_refused(self, bench: Bench, pattern: str):
        """
        The stack of one runs out, the time of the other; and others are taken afterwards.
        """
        with pytest.raises(BadInput, match="more time or memory than one request is given"):
            bench.check_pattern(pattern)
        bench.check_pattern("^[ab]{1,3}$")

    def test_is_tried_once(self, bench: Bench):
        """
        The second time nothing has to run.
        """
        bench.check_pattern("^once$")
        bench.runner.run(bench.trials.stop())
        bench.check_pattern("^once$")

        assert bench.trials.process is not None
        assert bench.trials.process.returncode is not None

    def test_goes_on_where_nobody_waits_for_it(self, bench: Bench):
        """
        Who sends and leaves has no second turn before the first is over, and the verdict is kept.
        """
        asked = StructuredOutputsParams(json='{"type": "string", "pattern": "^left$"}')
        known = len(bench.trials.verdicts)

        async def leave() -> bool:
            waiting = asyncio.create_task(bench.trials.check("south", asked))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait({waiting})
            return bench.trials.turns["south"].locked()

        assert bench.runner.run(leave())
        bench.runner.run(bench.trials.check("south", asked))
        assert known + 1 == len(bench.trials.verdicts)


class TestTheProcess:
    def test_is_another_one_where_it_died(self, bench: Bench):
        """
        No grammar is blamed for that.
        """
        bench.check_pattern("^before$")
        assert bench.trials.process is not None
        os.kill(bench.trials.process.pid, signal.SIGKILL)
        bench.check_pattern("^after$")
