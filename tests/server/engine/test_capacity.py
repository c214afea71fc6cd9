"""How many adapters an engine holds where nobody has said it."""

import torch

from galenic_adapters.factor import Metaprompt
from galenic_server.engine.capacity import (
    MOST_BYTES,
    MOST_SLOTS,
    memory_bytes,
    table_bytes,
)
from galenic_server.settings import Settings

DEFAULT, LARGE = (Metaprompt(torch.ones(*shape)) for shape in ((64, 576), (100, 4096)))


class TestCapacity:
    def test_follows_from_memory(self):
        """
        Tables of a 32nd of it, a gigabyte at most, hold ranks; slots have a bound of their own.
        """
        settings = Settings()
        slots, components = settings.capacity(DEFAULT)
        large_slots, large_components = settings.capacity(LARGE)

        assert 0 < 32 * table_bytes() <= memory_bytes()
        assert table_bytes() <= MOST_BYTES
        assert table_bytes() // (2 * 640 + 8) == components
        assert table_bytes() // (2 * 4196 + 8) == large_components
        assert (min(components, MOST_SLOTS), large_components) == (slots, large_slots)

    def test_is_what_the_operator_says(self):
        """
        Slots, and ranks or four a slot; of ranks alone, a slot each.
        """
        assert (100_000, None) == Settings(num_slots=100_000).capacity(DEFAULT)
        both = Settings(num_slots=100_000, num_components=200_000)
        assert (100_000, 200_000) == both.capacity(DEFAULT)
        assert (1000, 1000) == Settings(num_components=1000).capacity(DEFAULT)

    def test_is_of_whole_prompts_on_the_other_engine(self):
        """
        Which keeps them composed: fewer of them fill the same memory.
        """
        slots, components = Settings(engine="transformers").capacity(DEFAULT)

        assert (table_bytes() // (2 * 64 * 576), None) == (slots, components)
