"""
How many adapters an engine holds, where the operator leaves that open.

Resident adapters are cheap, so all of a hospital's shall be: the table takes a thirty-second of the
machine's memory, at most a gigabyte. That is room for 570,000 ranks of the default backbone (P=64,
D=576) on 23 GB, for 128,000 of one of 8B (P=100, D=4096). Memory that no adapter has been written
to is not used on CPUs. Slots end at 131,072, for on GPUs each request in the runner keeps a bit for
each virtual id (`guards_v2`): 1 MB of 64 positions.
"""

import os
from pathlib import Path

from galenic_adapters.factor import Metaprompt
from galenic_adapters.package.dtypes import TORCH_DTYPES
from galenic_adapters.package.manifest import DType

SHARE_OF_MEMORY = 32
MOST_BYTES = 1 << 30
MOST_SLOTS = 1 << 17
LINK_BYTES = 8  # an adapter's slot, and the link of its component
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def memory_bytes() -> int:
    """What this process may use: the machine's, or its container's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    said = CGROUP_LIMIT.read_text("ascii").strip() if CGROUP_LIMIT.is_file() else "max"
    return min(machine, int(said)) if said.isdecimal() else machine


def table_bytes() -> int:
    """What the tables may take that nobody has set the size of."""
    return min(MOST_BYTES, memory_bytes() // SHARE_OF_MEMORY)


def usual_components(metaprompt: Metaprompt, dtype: DType) -> int:
    """Adapters of rank 1 that fit the tables of vLLM's engine."""
    num_numbers = metaprompt.num_positions + metaprompt.width
    return max(1, table_bytes() // (num_numbers * TORCH_DTYPES[dtype].itemsize + LINK_BYTES))


def usual_prompts(metaprompt: Metaprompt, dtype: DType) -> int:
    """Composed prompts that fit the same memory; the other engine keeps those."""
    return max(1, table_bytes() // (metaprompt.rows_PD.numel() * TORCH_DTYPES[dtype].itemsize))
