"""
How much an engine holds, where the operator leaves that open.

Resident adapters are cheap, so many shall be. The tables of their scales take a thirty-second of
the machine's memory, at most 1 GiB: on 23 GB, 6,000 of the default backbone (127 KB each), and 600
of one of 8B. Keys and values of their prompts, which stay in the machine's memory, take a
sixteenth, at most 16 GiB: 1,000 prompts of 64 positions, and 180. Memory that no adapter has been
written to is not used on CPUs.
"""

import os
from collections.abc import Iterable
from pathlib import Path

TABLE_SHARE, MOST_TABLE_BYTES = 32, 1 << 30
PROMPT_SHARE, MOST_PROMPT_BYTES = 16, 16 << 30
MOST_SLOTS = 1 << 17
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def memory_bytes() -> int:
    """What this process may use: the machine's, or its container's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    said = CGROUP_LIMIT.read_text("ascii").strip() if CGROUP_LIMIT.is_file() else "max"
    return min(machine, int(said)) if said.isdecimal() else machine


def table_bytes() -> int:
    """What the tables of scales may take."""
    return min(MOST_TABLE_BYTES, memory_bytes() // TABLE_SHARE)


def num_slots(shapes: Iterable[tuple[int, int]], number_bytes: int) -> int:
    """Adapters whose scales, of *shapes*, fit the tables."""
    slot_bytes = number_bytes * sum(num_layers * width for num_layers, width in shapes)
    return min(MOST_SLOTS, max(1, table_bytes() // max(1, slot_bytes)))


def prompt_bytes() -> int:
    """What the keys and values of prompts may take."""
    return min(MOST_PROMPT_BYTES, memory_bytes() // PROMPT_SHARE)
