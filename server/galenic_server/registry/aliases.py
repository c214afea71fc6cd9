"""
Aliases: names that point to a version and can be moved, with an optional canary, and rolled back.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from galenic_adapters.errors import BadInput, Conflict, NotFound, Unconditional
from galenic_adapters.refs import NAME, AdapterRef, check_name
from galenic_server.audit.chain import note
from galenic_server.database.changes import Changes, Kind, Writing, now
from galenic_server.database.tables import adapters, aliases
from galenic_server.registry.rows import is_version


@dataclass(frozen=True, slots=True)
class Canary:
    """A version that answers *weight* of a hundred requests instead of the alias's target."""

    ref: AdapterRef
    weight: int

    def __post_init__(self) -> None:
        if not 1 <= self.weight <= 99:
            raise BadInput("canary.weight", f"{self.weight} is not in 1 to 99, of a hundred")


@dataclass(frozen=True, slots=True)
class Alias:
    """Describes an alias. change: number of its last change.   previous: target of a rollback."""

    tenant: str
    name: str
    ref: AdapterRef
    change: int
    changed: datetime
    canary: Canary | None = None
    previous: AdapterRef | None = None


Match = Callable[[Alias | None], None]
"""A precondition: raises unless the current alias (None if there is none) is the one meant."""


def anyhow(alias: Alias | None) -> None:
    """Accept any alias. For callers that are the only writer."""


def absent(alias: Alias | None) -> None:
    """Raise `Conflict` if the alias exists."""
    if alias is not None:
        raise Conflict(f"alias {alias.name} exists already")


def unsaid(alias: Alias | None) -> None:
    """Raise `Unconditional` if the alias exists: without a precondition none may be changed."""
    if alias is not None:
        raise Unconditional(f"alias {alias.name} exists: send If-Match with its ETag, or with *")


def existing(alias: Alias | None) -> None:
    """Raise `Conflict` if the alias does not exist."""
    if alias is None:
        raise Conflict("there is no such alias any more")


def only(*changes: int) -> Match:
    """Make a precondition that the alias is as one of these *changes* left it."""

    def match(alias: Alias | None) -> None:
        existing(alias)
        assert alias is not None, "it exists"
        if alias.change not in changes:
            raise Conflict(f"alias {alias.name} has changed since; it points to {alias.ref} now")

    return match


class Aliases:
    """
    Stores each tenant's aliases; for another tenant's, methods raise `NotFound`.

    *match* is the precondition of a change, and raises if it does not hold.
    """

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._database = changes.database

    def move(
        self,
        tenant: str,
        alias: str,
        ref: AdapterRef,
        *,
        canary: Canary | None = None,
        match: Match = anyhow,
    ) -> Alias:
        """Point *alias* to *ref*; a rollback goes back to its previous target."""
        with self._changes.writing(Kind.ALIAS, tenant, check_name("alias", alias)) as writing:
            was = _find(writing.db, tenant, alias)
            match(was)
            _check_alike(writing.db, tenant, ref, canary)
            previous = _before(was, ref)
            return self._write(writing, was, Alias(tenant, alias, ref, 0, now(), canary, previous))

    def promote(self, tenant: str, alias: str, *, match: Match = anyhow) -> Alias:
        """Point the alias to its canary."""
        with self._changes.writing(Kind.ALIAS, tenant, alias) as writing:
            was = _get(writing.db, tenant, alias)
            match(was)
            if was.canary is None:
                raise Conflict(f"alias {alias} has no canary")
            _check_alike(writing.db, tenant, was.canary.ref, None)
            moved = Alias(tenant, alias, was.canary.ref, 0, now(), None, was.ref)
            return self._write(writing, was, moved)

    def roll_back(self, tenant: str, alias: str, *, match: Match = anyhow) -> Alias:
        """Remove the canary; if there is none, go back to the previous version."""
        with self._changes.writing(Kind.ALIAS, tenant, alias) as writing:
            was = _get(writing.db, tenant, alias)
            match(was)
            if was.canary is not None:
                moved = Alias(tenant, alias, was.ref, 0, now(), None, was.previous)
            elif was.previous is not None:
                _check_alike(writing.db, tenant, was.previous, None)
                moved = Alias(tenant, alias, was.previous, 0, now())
            else:
                raise Conflict(f"alias {alias} has nothing to go back to")
            return self._write(writing, was, moved)

    def drop(self, tenant: str, alias: str, *, match: Match = anyhow) -> None:
        with self._changes.writing(Kind.ALIAS, tenant, alias[:64]) as writing:
            match(was := _get(writing.db, tenant, alias))
            note(alias=alias, old=str(was.ref), new=None)
            writing.db.execute(aliases.delete().where(_is_alias(tenant, alias)))

    def get(self, tenant: str, alias: str) -> Alias:
        with self._database.reading() as db:
            return _get(db, tenant, alias)

    def of(self, tenant: str) -> dict[str, Alias]:
        """Return the tenant's aliases by name."""
        query = sa.select(aliases).where(aliases.c.tenant == tenant).order_by(aliases.c.alias)
        with self._database.reading() as db:
            return {row.alias: _alias(row) for row in db.execute(query)}

    def _write(self, writing: Writing, was: Alias | None, alias: Alias) -> Alias:
        canary, previous = alias.canary, alias.previous
        note(
            alias=alias.name,
            old=was and str(was.ref),
            new=str(alias.ref),
            digest=_digest(writing.db, alias.ref),
            canary=canary and f"{canary.ref} {canary.weight}%",
        )
        target = {
            "name": alias.ref.name,
            "version": alias.ref.version,
            "changed": alias.changed,
            "change": writing.number,
            "canary_name": canary and canary.ref.name,
            "canary_version": canary and canary.ref.version,
            "canary_weight": canary and canary.weight,
            "previous_name": previous and previous.name,
            "previous_version": previous and previous.version,
        }
        row = {"tenant": alias.tenant, "alias": alias.name, **target}
        upsert = self._database.insert(aliases).values(row)
        key = [aliases.c.tenant, aliases.c.alias]
        upsert = upsert.on_conflict_do_update(index_elements=key, set_=target)
        writing.db.execute(upsert)
        return replace(alias, change=writing.number)


def pointing(ref: AdapterRef) -> sa.Select[Any]:
    """Select the aliases that point to *ref*, or have it as their canary."""
    first = sa.and_(aliases.c.name == ref.name, aliases.c.version == ref.version)
    second = sa.and_(aliases.c.canary_name == ref.name, aliases.c.canary_version == ref.version)
    return sa.select(aliases.c.alias).where(aliases.c.tenant == ref.tenant, sa.or_(first, second))


def _before(was: Alias | None, ref: AdapterRef) -> AdapterRef | None:
    """Return the target of a rollback once the alias points to *ref*."""
    if was is None:
        return None
    return was.previous if was.ref == ref else was.ref


def _check_alike(db: sa.Connection, tenant: str, ref: AdapterRef, canary: Canary | None) -> None:
    """Check that both versions exist, are the tenant's, and answer the same task."""
    task = _task(db, tenant, ref)
    if canary is not None and (other := _task(db, tenant, canary.ref)) != task:
        raise BadInput("canary", f"{canary.ref} is for {other}, {ref} is for {task}")


def _task(db: sa.Connection, tenant: str, ref: AdapterRef) -> str:
    query = sa.select(adapters.c.manifest).where(is_version(ref), adapters.c.deleted.is_(None))
    text: str | None = db.scalar(query) if ref.tenant == tenant else None
    if text is None:
        raise NotFound(f"no adapter {str(ref)!r}")
    return str(json.loads(text)["task"])


def _digest(db: sa.Connection, ref: AdapterRef) -> str | None:
    return db.scalar(sa.select(adapters.c.digest).where(is_version(ref)))


def _is_alias(tenant: str, alias: str) -> sa.ColumnElement[bool]:
    return sa.and_(aliases.c.tenant == tenant, aliases.c.alias == alias)


def _find(db: sa.Connection, tenant: str, alias: str) -> Alias | None:
    row = db.execute(sa.select(aliases).where(_is_alias(tenant, alias))).first()
    return None if row is None else _alias(row)


def _get(db: sa.Connection, tenant: str, alias: str) -> Alias:
    found = _find(db, tenant, alias) if NAME.fullmatch(alias) else None
    if found is None:
        raise NotFound(f"no alias {alias[:80]!r}")
    return found


def _alias(row: Any) -> Alias:
    def ref(name: str | None, version: int | None) -> AdapterRef | None:
        return AdapterRef(row.tenant, name, version) if name and version else None

    canary = ref(row.canary_name, row.canary_version)
    return Alias(
        row.tenant,
        row.alias,
        AdapterRef(row.tenant, row.name, row.version),
        row.change,
        row.changed,
        None if canary is None else Canary(canary, row.canary_weight),
        ref(row.previous_name, row.previous_version),
    )
