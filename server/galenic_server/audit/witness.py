"""
Keeps the chain's last head beside the server's secret, outside the database.

Whoever can write the database only cannot cut the chain off and say that it was never longer.
"""

import hashlib
from pathlib import Path
from typing import Self

import sqlalchemy as sa

from galenic_adapters.files import write_whole
from galenic_server.audit.chain import NONE, Head


class Witness:
    """Reads and writes the head that was seen last, in a file of its own for each database."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, home: Path, database_url: str) -> Self:
        named = sa.make_url(database_url).render_as_string(hide_password=True)
        return cls(home / f"audit-head-{hashlib.sha256(named.encode()).hexdigest()[:8]}")

    def read(self) -> Head:
        """Return the head that was written last, or that of an empty chain."""
        return Head.parse(self.path.read_text().strip()) if self.path.exists() else NONE

    def write(self, head: Head) -> None:
        write_whole(self.path, f"{head}\n".encode())
