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
SCALES = {"q": (30, 576), "k": (30, 192), "v": (30, 192), "o": (30, 576), "f": (30, 1536)}


class TestCapacity:
    def test_follows_from_memory(self):
        """
        Tables of a 32nd of it, a gigabyte at most, hold ranks; slots have a bound of their own.
        """
        settings = Settings()
        slots, components = settings.capacity(DEFAULT, SCALES)
        large_slots, large_components = settings.capacity(LARGE, SCALES)

        assert 0 < 32 * table_bytes() <= memory_bytes()
        assert table_bytes() <= MOST_BYTES
        assert table_bytes() // (2 * 640 + 8) == components
        assert table_bytes() // (2 * 4196 + 8) == large_components
        assert (min(components, MOST_SLOTS), large_components) == (slots, large_slots)

    def test_of_scales_follows_from_the_places(self):
        """
        A slot for each adapter whose scales fit, on both engines; ranks are not counted by it.
        """
        most = table_bytes() // (2 * 30 * (576 + 1536))
        slots, components = Settings(places="of").capacity(DEFAULT, SCALES)
        kept, _ = Settings(places="of", engine="transformers").capacity(DEFAULT, SCALES)

        assert (most, table_bytes() // (2 * 640 + 8)) == (slots, components)
        assert min(most, table_bytes() // (2 * 64 * 576)) == kept
        assert most > Settings(places="qkvof").capacity(DEFAULT, SCALES)[0]

    def test_is_what_the_operator_says(self):
        """
        Slots, and ranks or four a slot; of ranks alone, a slot each.
        """
        assert (100_000, None) == Settings(num_slots=100_000).capacity(DEFAULT, SCALES)
        both = Settings(num_slots=100_000, num_components=200_000)
        assert (100_000, 200_000) == both.capacity(DEFAULT, SCALES)
        assert (1000, 1000) == Settings(num_components=1000).capacity(DEFAULT, SCALES)

    def test_is_of_whole_prompts_on_the_other_engine(self):
        """
        Which keeps them composed: fewer of them fill the same memory.
        """
        slots, components = Settings(engine="transformers").capacity(DEFAULT, SCALES)

        assert (table_bytes() // (2 * 64 * 576), None) == (slots, components)
