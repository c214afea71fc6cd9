"""
Moves old rows of the audit chain into a file, which a sealed checkpoint ends.

The chain goes on from the checkpoint. A row of its own says that, and holds the file's digest.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from galenic_adapters.errors import BadInput
from galenic_adapters.files import write_whole
from galenic_server.audit.chain import NONE, Chain, Head, Record, Tampered, canonical


def archive(chain: Chain, before: datetime, path: Path) -> Head | None:
    """
    Move rows written before *before* to *path*; return the last one's place, or None for no rows.

    The chain is verified first, and the file is on disk before a row is deleted.
    """
    if path.exists():
        raise BadInput("to", f"{path} is there already")
    chain.verify()
    if not any(True for _ in _older(chain, before)):
        return None
    made = Archive(chain, before)
    write_whole(path, made.lines())
    done = {"action": "archive_audit", "through": str(made.last), "sha256": made.digest}
    chain.cut(made.last, done | {"actor": "command", "outcome": "done"})
    return made.last


class Archive:
    """Makes an archive's lines; *last* and *digest* are those of the lines made so far."""

    def __init__(self, chain: Chain, before: datetime) -> None:
        self._chain = chain
        self._before = before
        self._hash = hashlib.sha256()
        self.last = NONE

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def lines(self) -> Iterator[bytes]:
        for record, mac in _older(self._chain, self._before):
            line = _line(record | {"mac": mac})
            self.last = Head(record["number"], mac)
            self._hash.update(line)
            yield line
        seal = self._chain.seal_archive(self.last, self.digest)
        yield _line({"checkpoint": str(self.last), "seal": seal})


def _line(fields: Record) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def _older(chain: Chain, before: datetime) -> Iterator[tuple[Record, str]]:
    for record, mac in chain.rows():
        if datetime.fromisoformat(record["at"]) >= before:
            return
        yield record, mac


def verify_archive(chain: Chain, lines: Iterable[bytes]) -> tuple[Head, Head]:
    """
    Check a file of `archive`; return the places before its first and of its last row.

    Files follow each other where one's last place is the next one's first. Raises `Tampered`.
    """
    first: Head | None = None
    last, made = NONE, hashlib.sha256()
    for line in lines:
        told = json.loads(line)
        if "checkpoint" in told:
            if not chain.is_archive(last, made.hexdigest(), told["seal"]):
                break
            return first or NONE, last
        made.update(line)
        mac = told.pop("mac")
        if first is None:
            first = last = Head(told["number"] - 1, told["previous"])
        last = chain.follows(last, told["number"], canonical(told), mac)
    raise Tampered(f"the archive's end at row {last.number} has no seal of this server's")
