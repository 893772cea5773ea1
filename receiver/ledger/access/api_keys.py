"""The keys of upstream apps: who may call the submit API. The ledger has their hashes only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

from receiver.ledger.database import dialect
from receiver.ledger.schema import keys


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `hash`: SHA-256 of the whole key. `hint`: its first characters. `rate`: such as 10/s.

    `expires_at`: None for never; `expired`: whether that was past by the database's clock when it was read.
    `replaced_by`: the id of the key that it was rotated to, or "".
    """

    id: str
    name: str
    hash: str = field(repr=False)
    hint: str
    scopes: frozenset[str]
    source: str
    rate: str | None
    created_at: float
    used_at: float | None = None
    revoked_at: float | None = None
    expires_at: float | None = None
    replaced_by: str = ""
    expired: bool = False

    @property
    def in_use(self) -> bool:
        """Whether it opens anything."""
        return self.revoked_at is None and not self.expired


def _of_row(row: sa.Row[tuple[object, ...]]) -> Key:
    fields = dict(row._mapping)
    return Key(**{**fields, "scopes": frozenset(fields["scopes"].split())})


def create(connection: sa.Connection, key: Key) -> None:
    """Insert a new key."""
    row = {**asdict(key), "scopes": " ".join(sorted(key.scopes))}
    del row["expired"]
    connection.execute(sa.insert(keys).values(row))


def by_hashes(connection: sa.Connection) -> dict[str, Key]:
    """Return all keys that are not revoked, by their hashes; they may have expired."""
    rows = connection.execute(_select(connection).where(keys.c.revoked_at.is_(None)))
    return {key.hash: key for key in map(_of_row, rows)}


def _select(connection: sa.Connection) -> sa.Select[Any]:
    return sa.select(keys, _is_expired(connection).label("expired"))


def _is_expired(connection: sa.Connection) -> sa.ColumnElement[bool]:
    """Return the condition, by the clock of the database: hosts' clocks may be wrong. SQLite's is the host's."""
    return sa.and_(keys.c.expires_at.is_not(None), keys.c.expires_at <= dialect.now(connection))


def get(connection: sa.Connection, key_id: str, *, lock: bool = False) -> Key | None:
    """Return the key with this id, revoked or not. `lock`: no other transaction changes it before this one ends."""
    query = _select(connection).where(keys.c.id == key_id)
    row = connection.execute(query.with_for_update() if lock else query).first()
    return None if row is None else _of_row(row)


def page(
    connection: sa.Connection, limit: int | None = None, *, source: str = "", after: tuple[float, str] | None = None
) -> list[Key]:
    """Return keys, the oldest first. `source`: only those of this one; `after`: only those that come after the one that
    was created then and has this id."""
    query = _select(connection).order_by(keys.c.created_at, keys.c.id).limit(limit)
    query = query.where(keys.c.source == source) if source else query
    if after is not None:
        query = query.where(sa.tuple_(keys.c.created_at, keys.c.id) > after)
    return [_of_row(row) for row in connection.execute(query)]


def revoke(connection: sa.Connection, key_id: str, now: float) -> bool:
    """Revoke the key. False when it is unknown or already revoked."""
    result = connection.execute(
        sa.update(keys).where(keys.c.id == key_id, keys.c.revoked_at.is_(None)).values(revoked_at=now)
    )
    return result.rowcount == 1


def replace(connection: sa.Connection, key_id: str, by: str, expires_at: float) -> None:
    """Note by which key this one was replaced, and that it ends at that time, if not before."""
    ends = sa.case((keys.c.expires_at < expires_at, keys.c.expires_at), else_=expires_at)
    connection.execute(sa.update(keys).where(keys.c.id == key_id).values(replaced_by=by, expires_at=ends))


def rotations(connection: sa.Connection, key_id: str) -> list[str]:
    """Return the ids of this key, of those that it was rotated from, and of those that it was rotated to."""
    name = sa.select(keys.c.name).where(keys.c.id == key_id).scalar_subquery()  # a successor has the same
    rotated = sa.select(keys.c.id, keys.c.replaced_by).where(keys.c.name == name, keys.c.replaced_by != "")
    successor = {row.id: row.replaced_by for row in connection.execute(rotated)}
    predecessor = {new: old for old, new in successor.items()}
    found = [key_id]
    for step in (successor, predecessor):
        other = key_id
        while (other := step.get(other, "")) and other not in found:
            found.append(other)
    return found


def list_by_name(connection: sa.Connection, name: str) -> list[Key]:
    """Return the keys with this name that are in use and not replaced, the oldest first."""
    query = _select(connection).where(keys.c.name == name, keys.c.replaced_by == "").order_by(keys.c.created_at)
    return [key for row in connection.execute(query) if (key := _of_row(row)).in_use]


def mark_used(connection: sa.Connection, key_id: str, now: float) -> None:
    """Update the time at which the key was last used."""
    connection.execute(sa.update(keys).where(keys.c.id == key_id).values(used_at=now))
