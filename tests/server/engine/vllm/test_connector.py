"""Prompts that come to vLLM as keys and values, before texts that know nothing of them."""

import pytest
import torch

from galenic_adapters.errors import Unavailable
from galenic_adapters.factor import Composed
from galenic_server.engine.vllm.connector import NOWHERE, Load
from tests.support.engines import RunningEngine, running

TEXT, WORDS = "Denies chest pain.", "BP 120/80, afebrile. On warfarin for AF. "


class TestALoad:
    def test_knows_the_slot_of_every_position(self):
        """
        Positions 30 to 34 of a prompt in blocks 7, 2 and 9 of 16: the end of one, the start of the
        next. Outside a window there is no block, and nothing is written.
        """
        load = Load("digest", range(30, 35), ([7, 2, 9], [None, None, 4]))

        assert [46, 47, 144, 145, 146] == list(load.slots(0, 16))
        assert [NOWHERE, NOWHERE, 64, 65, 66] == list(load.slots(1, 16))


class TestAPromptThatIsNotThere:
    def test_ends_its_request_and_nobody_elses(self, scarce: RunningEngine):
        """
        No placeholder is read as if it were text, and the engine lives.
        """
        adapters = [scarce.adapters.add(kind) for kind in ("rows", "deep")]
        expected = [scarce.ask(adapter=adapter).text for adapter in adapters]
        lost = scarce.engine.residents.slots.seated()[adapters[0]].prompt.digest
        scarce.run(scarce.engine.core.call("load_prompts", {}, [lost]))
        scarce.engine.residents.loader.kept.remove(lost)

        with pytest.raises(Unavailable, match="ended this request"):
            scarce.ask(adapter=adapters[0], tenant="south")  # whose cache knows it not
        assert expected[1] == scarce.ask(adapter=adapters[1], tenant="south").text
        scarce.run(scarce.engine.evict(adapters[0]))
        assert expected[0] == scarce.ask(adapter=adapters[0], tenant="south").text


@pytest.mark.slow
class TestACacheOf8BitFloats:
    def test_holds_prompts_too(self, llama):
        """
        Rows that are those of words answer nearly as if the words were in the text.
        """
        options = {"kv_cache_dtype": "fp8"}
        with running("vllm", llama, options=options) as vllm:
            embeddings = embeddings_of(llama)
            ids = vllm.engine.tokenizer.encode(WORDS)
            words = vllm.adapters.put(Composed(embeddings[torch.tensor(ids)]))
            asked = {"max_tokens": 4}  # after more of them, eight bits may decide
            inside = vllm.ask(WORDS + TEXT, **asked)
            before = vllm.ask(TEXT, adapter=words, **asked)

        assert inside.text == before.text
        assert inside.logprob == pytest.approx(before.logprob, abs=0.3)


def embeddings_of(folder) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.get_input_embeddings().weight.detach()
