"""
Verify, export or archive the audit chain, where the server's database and secret are.

``galenic audit`` runs this.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from galenic_adapters.errors import GalenicError, NotFound
from galenic_server.audit.archive import archive, verify_archive
from galenic_server.audit.chain import Chain, Head
from galenic_server.audit.witness import Witness
from galenic_server.database.database import Database
from galenic_server.secret import read_secrets


def main(words: Sequence[str] | None = None) -> int:
    asked = _arguments(words)
    try:
        with _chain(asked) as chain:
            for line in asked.lines(chain, asked):
                sys.stdout.write(line + "\n")
    except GalenicError as error:
        sys.stderr.write(f"galenic: {error}\n")
        return 1
    return 0


def _verified(chain: Chain, asked: argparse.Namespace) -> Iterator[str]:
    if asked.archive:
        with asked.archive.open("rb") as lines:
            before, last = verify_archive(chain, lines)
        yield f"whole: rows {before.number + 1:,} to {last.number:,}"
        yield f"follows: {before}"
        yield f"head: {last}"
        return
    found = chain.verify(Head.parse(asked.head) if asked.head else None)
    yield f"whole: {found.number:,} rows"
    yield f"head: {found}"


def _archived(chain: Chain, asked: argparse.Namespace) -> Iterator[str]:
    last = archive(chain, datetime.now(UTC) - timedelta(days=asked.older_than_days), asked.to)
    yield f"archived: up to row {last.number:,} in {asked.to}" if last else "archived: no rows"


def _exported(chain: Chain, asked: argparse.Namespace) -> Iterator[str]:
    for record, mac in chain.rows(asked.after):
        if asked.tenant in (None, record.get("tenant")):
            yield json.dumps(record | {"mac": mac})


@contextmanager
def _chain(asked: argparse.Namespace) -> Iterator[Chain]:
    file, path = asked.home / "galenic.db", asked.home / "secret"
    if not asked.database and not file.exists():
        raise NotFound(f"no database at {file}: name it by --database or --home")
    if not asked.secret and not path.exists():
        raise NotFound(f"no secret at {path}: give the server's by GALENIC_SECRET or --home")
    url = asked.database or f"sqlite:///{file.absolute()}"
    database = Database.open(url)
    try:
        secrets = read_secrets(asked.home, asked.secret)
        yield Chain(database, *secrets, seen=Witness.of(asked.home, url).read())
    finally:
        database.close()


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="galenic audit", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="verify | export | archive")
    verify = commands.add_parser(
        "verify",
        help="read the whole chain",
        description="Read the whole chain; says where it ends, or where it was tampered with (and"
        " ends with 1).",
    )
    verify.add_argument("--head", help="NUMBER:MAC noted earlier, which the chain has to hold")
    verify.add_argument("--archive", type=Path, help="a file of `archive` to read instead")
    verify.set_defaults(lines=_verified)
    export = commands.add_parser(
        "export",
        help="write rows as JSON lines",
        description="Write rows as JSON lines, each with its MAC. Run `verify` first: this only"
        " reads.",
    )
    export.add_argument("--after", type=int, default=0, help="the number of the last row to skip")
    export.add_argument("--tenant", help="only what its keys did")
    export.set_defaults(lines=_exported)
    keep = commands.add_parser(
        "archive",
        help="move old rows into a file",
        description="Verify the chain, write rows of some age with a sealed end into a file, and"
        " delete them from the database. The server may run meanwhile.",
    )
    keep.add_argument("--older-than-days", type=float, default=365, help="their age; 365 unset")
    keep.add_argument("--to", type=Path, required=True, help="a file that does not exist yet")
    keep.set_defaults(lines=_archived)
    for command in (verify, export, keep):
        _add_places(command)
    return parser.parse_args(words)


def _add_places(parser: argparse.ArgumentParser) -> None:
    given = os.environ.get
    parser.add_argument(
        "--database",
        default=given("GALENIC_DATABASE_URL"),
        help="its URL, else GALENIC_DATABASE_URL, else the one in home",
    )
    parser.add_argument(
        "--home",
        type=Path,
        default=given("GALENIC_HOME") or Path.home() / ".galenic",
        help="where database and secret lie; else GALENIC_HOME, else ~/.galenic",
    )
    parser.add_argument(
        "--secret",
        default=given("GALENIC_SECRET"),
        help="else GALENIC_SECRET, else the file in home",
    )


if __name__ == "__main__":
    sys.exit(main())
