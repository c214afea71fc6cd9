"""
Chooses how many adapters an engine holds, if the operator does not.

Resident adapters are cheap, so there are many. Tables of scales take 1/32 of the machine's memory,
at most 1 GiB: on 23 GB, 6,000 adapters of the default backbone (127 KB each), or 600 of an 8B one.
Keys and values of prompts stay in host memory and take 1/16, at most 16 GiB: 1,000 prompts of 64
positions, or 180. On CPUs, memory that no adapter was written to is not used.
"""

import os
from collections.abc import Iterable
from pathlib import Path

TABLE_SHARE, MOST_TABLE_BYTES = 32, 1 << 30
PROMPT_SHARE, MOST_PROMPT_BYTES = 16, 16 << 30
MOST_SLOTS = 1 << 17
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def memory_bytes() -> int:
    """Return the memory of the machine, or of its container if that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP_LIMIT.read_text("ascii").strip() if CGROUP_LIMIT.is_file() else "max"
    return min(machine, int(limit)) if limit.isdecimal() else machine


def table_bytes() -> int:
    """Return the bytes that the tables of scales may take."""
    return min(MOST_TABLE_BYTES, memory_bytes() // TABLE_SHARE)


def num_slots(shapes: Iterable[tuple[int, int]], number_bytes: int) -> int:
    """Return the number of adapters with scales of *shapes* that fit the tables."""
    slot_bytes = number_bytes * sum(num_layers * width for num_layers, width in shapes)
    return min(MOST_SLOTS, max(1, table_bytes() // max(1, slot_bytes)))


def prompt_bytes() -> int:
    """Return the bytes that the keys and values of prompts may take."""
    return min(MOST_PROMPT_BYTES, memory_bytes() // PROMPT_SHARE)
