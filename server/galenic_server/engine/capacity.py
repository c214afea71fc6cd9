"""
How many adapters an engine holds, where the operator leaves that open.

Resident adapters are cheap, so all of a hospital's shall be: the table takes a thirty-second of the
machine's memory, at most a gigabyte. That is room for 570,000 ranks of the default backbone (P=64,
D=576) on 23 GB, for 128,000 of one of 8B (P=100, D=4096). Memory that no adapter has been written
to is not used on CPUs. Slots end at 131,072, for on GPUs each request in the runner keeps a bit for
each virtual id (`guards_v2`): 1 MB of 64 positions. Where adapters scale activations, slots end
with the memory for those: 127 KB each for the default backbone at two places, 1.2 MB for one of 8B.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from galenic_adapters.factor import Metaprompt

SHARE_OF_MEMORY = 32
MOST_BYTES = 1 << 30
MOST_SLOTS = 1 << 17
LINK_BYTES = 8  # an adapter's slot, and the link of its component
NUMBER_BYTES = {"float32": 4, "bfloat16": 2}
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def memory_bytes() -> int:
    """What this process may use: the machine's, or its container's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    said = CGROUP_LIMIT.read_text("ascii").strip() if CGROUP_LIMIT.is_file() else "max"
    return min(machine, int(said)) if said.isdecimal() else machine


def table_bytes() -> int:
    """What the tables may take that nobody has set the size of."""
    return min(MOST_BYTES, memory_bytes() // SHARE_OF_MEMORY)


def usual_components(metaprompt: Metaprompt, dtype: str) -> int:
    """Adapters of rank 1 that fit the tables of vLLM's engine."""
    num_numbers = metaprompt.num_positions + metaprompt.width
    return max(1, table_bytes() // (num_numbers * NUMBER_BYTES[dtype] + LINK_BYTES))


def usual_prompts(metaprompt: Metaprompt, dtype: str) -> int:
    """Composed prompts that fit the same memory; the other engine keeps those."""
    return max(1, table_bytes() // (metaprompt.rows_PD.numel() * NUMBER_BYTES[dtype]))


def usual_scales(shapes: Iterable[tuple[int, int]], dtype: str) -> int:
    """Slots whose scales, of so many layers and such widths, fit the same memory."""
    num_numbers = sum(num_layers * width for num_layers, width in shapes)
    fitting = table_bytes() // max(1, num_numbers * NUMBER_BYTES[dtype])
    return max(1, min(MOST_SLOTS, fitting))
