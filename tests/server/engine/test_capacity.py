"""How much an engine holds where nobody has said it."""

from pathlib import Path

from galenic_server.engine.capacity import (
    MOST_PROMPT_BYTES,
    MOST_SLOTS,
    MOST_TABLE_BYTES,
    memory_bytes,
    num_slots,
    prompt_bytes,
    table_bytes,
)
from galenic_server.engine.checks import fit
from galenic_server.engine.contract import EngineConfig

DEFAULT, LARGE = ((30, 576), (30, 1536)), ((32, 4096), (32, 14336))  # at attention and feed-forward


class TestCapacity:
    def test_follows_from_memory(self):
        """
        Tables of a 32nd of it, a gigabyte at most, hold scales; prompts take a 16th.
        """
        assert 0 < 32 * table_bytes() <= memory_bytes()
        assert table_bytes() <= MOST_TABLE_BYTES
        assert prompt_bytes() in (memory_bytes() // 16, MOST_PROMPT_BYTES)
        assert table_bytes() // (2 * 30 * 2112) == num_slots(DEFAULT, 2)
        assert table_bytes() // (2 * 32 * 18432) == num_slots(LARGE, 2)

    def test_of_slots_that_take_nothing_is_bounded(self):
        """
        Where no adapter may scale anything, slots have no tables.
        """
        assert MOST_SLOTS == num_slots((), 2)

    def test_is_what_the_operator_says(self, llama: Path):
        """
        Else it is filled in for the backbone.
        """
        config = EngineConfig(str(llama), b"secret", num_slots=7, prompt_bytes=1000)
        said, _, sizes = fit(config)
        usual, _, _ = fit(EngineConfig(str(llama), b"secret"))

        assert (7, 1000, 1000) == (said.num_slots, said.prompt_bytes, sizes.prompt_bytes)
        assert num_slots(((2, 64), (2, 96)), 2) == usual.num_slots
        assert prompt_bytes() == usual.prompt_bytes
