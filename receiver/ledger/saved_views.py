"""Views of the console that people have saved by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from receiver.ledger.schema import saved_views

# Maximum views of a list.
MOST = 200


@dataclass(frozen=True, slots=True)
class SavedView:
    """`owner`: who saved it, as `kind:name`. `source`: the only one that they may see, "" for all. `path`: below
    /console. `shared`: whether all see it who may see what its owner may. `saved_at`: by the database's clock."""

    id: str
    owner: str
    source: str
    name: str
    path: str
    shared: bool
    saved_at: float


def seen_by(connection: sa.Connection, owner: str, source: str) -> Sequence[SavedView]:
    """Return the owner's views, then shared ones, each by name. `source`: the only one that the owner may see; "" for
    all."""
    it = saved_views.c
    query = sa.select(saved_views).where(sa.or_(it.owner == owner, it.shared))
    if source:
        query = query.where(it.source == source)
    found = connection.execute(query.order_by(it.owner != owner, it.name, it.id).limit(MOST))
    return [SavedView(**row._mapping) for row in found]


def find(connection: sa.Connection, **which: str) -> SavedView | None:
    """Return the view with these values: its `id`, or its `owner`, `source` ("" is that of all) and `name`."""
    row = connection.execute(sa.select(saved_views).filter_by(**which)).first()
    return None if row is None else SavedView(**row._mapping)


def count(connection: sa.Connection, owner: str) -> int:
    """Return how many views the owner has."""
    query = sa.select(sa.func.count()).select_from(saved_views).where(saved_views.c.owner == owner)
    return int(connection.execute(query).scalar_one())


def put(connection: sa.Connection, view: SavedView) -> None:
    """Save a view; one with the same id is replaced."""
    remove(connection, view.id)
    connection.execute(sa.insert(saved_views).values(asdict(view)))


def remove(connection: sa.Connection, view_id: str) -> None:
    """Delete a view, if it is there."""
    connection.execute(sa.delete(saved_views).where(saved_views.c.id == view_id))
