"""An engine that is short of everything: slots, blocks, room for prompts, and tokens a step."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from galenic_adapters.shape import PLACES
from tests.support.engines import RunningEngine, running

NUM_SLOTS = 5
KV_BYTES = 2 << 20
"""64 blocks of the tiny Llama, 2,048 tokens."""
PROMPT_BYTES = 256 << 10
"""Of 1 KiB a position: two or three prompts."""


@pytest.fixture(scope="session")
def scarce(llama: Path) -> Iterator[RunningEngine]:
    """With scales at every place."""
    options = {"kv_cache_memory_bytes": KV_BYTES, "max_num_batched_tokens": 64}
    sizes = {"num_slots": NUM_SLOTS, "prompt_bytes": PROMPT_BYTES, "options": options}
    with running("vllm", llama, places=PLACES, **sizes) as engine:
        yield engine


@pytest.fixture(scope="session")
def scarce_reference(llama: Path) -> Iterator[RunningEngine]:
    """What transformers says of the same adapters."""
    with running("transformers", llama, places=PLACES) as engine:
        yield engine
