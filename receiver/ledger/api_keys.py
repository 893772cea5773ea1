"""The keys of upstream apps: who may call the submit API. The ledger has their hashes only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import sqlalchemy as sa

from receiver.ledger.schema import keys


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `hash`: SHA-256 of the whole key. `hint`: its first characters. `rate`: such as 10/s."""

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


def _of_row(row: sa.Row[tuple[object, ...]]) -> Key:
    fields = dict(row._mapping)
    return Key(**{**fields, "scopes": frozenset(fields["scopes"].split())})


def create(connection: sa.Connection, key: Key) -> None:
    """Insert a new key."""
    row = {**asdict(key), "scopes": " ".join(sorted(key.scopes))}
    connection.execute(sa.insert(keys).values(row))


def by_hash(connection: sa.Connection, digest: str) -> Key | None:
    """Return the key with this hash that is not revoked."""
    row = connection.execute(sa.select(keys).where(keys.c.hash == digest, keys.c.revoked_at.is_(None))).first()
    return None if row is None else _of_row(row)


def hashes(connection: sa.Connection) -> frozenset[str]:
    """Return the hashes of all keys that are not revoked."""
    return frozenset(connection.scalars(sa.select(keys.c.hash).where(keys.c.revoked_at.is_(None))))


def one(connection: sa.Connection, key_id: str) -> Key | None:
    """Return the key with this id, revoked or not."""
    row = connection.execute(sa.select(keys).where(keys.c.id == key_id)).first()
    return None if row is None else _of_row(row)


def every(connection: sa.Connection) -> list[Key]:
    """Return all keys, the oldest first."""
    return [_of_row(row) for row in connection.execute(sa.select(keys).order_by(keys.c.created_at, keys.c.id))]


def page(
    connection: sa.Connection, limit: int, *, source: str = "", after: tuple[float, str] | None = None
) -> list[Key]:
    """Return keys, the oldest first. `source`: only those of this one; `after`: only those that come after the one that
    was created then and has this id."""
    query = sa.select(keys).order_by(keys.c.created_at, keys.c.id).limit(limit)
    query = query.where(keys.c.source == source) if source else query
    if after is not None:
        query = query.where(sa.tuple_(keys.c.created_at, keys.c.id) > after)
    return [_of_row(row) for row in connection.execute(query)]


def revoke(connection: sa.Connection, key_id: str, now: float) -> bool:
    """Revoke the key. False when there is none with this id, or it is revoked already."""
    result = connection.execute(
        sa.update(keys).where(keys.c.id == key_id, keys.c.revoked_at.is_(None)).values(revoked_at=now)
    )
    return result.rowcount == 1


def mark_used(connection: sa.Connection, key_id: str, now: float) -> None:
    """Update the time at which the key was last used."""
    connection.execute(sa.update(keys).where(keys.c.id == key_id).values(used_at=now))
