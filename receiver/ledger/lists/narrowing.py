"""Conditions of a filter that an index serves by run, event or source, as `paging.Search` takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa

from receiver.ledger import bulk
from receiver.ledger.filters import Condition, Filter, begins, text_query
from receiver.ledger.schema import events
from receiver.ledger.text_index.search import find_all

# Runs that are looked up one by one; of more, some are soon found along a list's order.
FEW: Final = 200
# What sorts behind all that begins alike, by bytes.
_LAST: Final = "\U0010ffff"


def by_run(connection: sa.Connection, wanted: Filter, table: sa.Table) -> list[Condition]:
    """Return conditions for the index of `table` on source and run: of a run, and of the runs that begin alike."""
    if not (wanted.run_id or wanted.run_prefix) or wanted.impossible:
        return []
    its = [wanted.source] if wanted.source else list(sources(connection, table))
    of_source = table.c.source.in_(its)
    if wanted.run_id:
        return [sa.and_(of_source, table.c.run_id == wanted.run_id)]
    if not _sorts_bytewise(connection):
        return []
    beginning = wanted.run_prefix
    return [sa.and_(of_source, table.c.run_id >= beginning, table.c.run_id < beginning + _LAST)]


def by_text(connection: sa.Connection, wanted: Filter, table: sa.Table) -> list[Condition]:
    """Return the condition for the index of `table` on source and run: of the runs that say what is searched for."""
    if not wanted.text or wanted.impossible:
        return []
    keys = find_all(connection, text_query(wanted.text), FEW)
    if keys is None:
        return []
    of_source = [
        sa.and_(table.c.source == source, bulk.among(connection, table.c.run_id, run_ids))
        for source, run_ids in bulk.by_source(keys)
    ]
    return [sa.or_(sa.false(), *of_source)]


def by_source(wanted: Filter, table: sa.Table) -> list[Condition]:
    """Return the condition for an index of `table` that begins with the source."""
    return [table.c.source == wanted.source] if wanted.source and not wanted.impossible else []


def by_event(connection: sa.Connection, wanted: Filter, table: sa.Table) -> list[Condition]:
    """Return the condition for the index of `table` on source and run: of the runs of the event."""
    if not wanted.event_id or wanted.impossible:
        return []
    query = sa.select(events.c.source, events.c.run_id).where(begins(events.c.id, wanted.event_id)).distinct().limit(2)
    found = connection.execute(query).all()
    if len(found) > 1:  # cut very short
        return []
    return [sa.and_(table.c.source == row.source, table.c.run_id == row.run_id) for row in found] or [sa.false()]


def sources(connection: sa.Connection, table: sa.Table) -> Iterator[str]:
    """Yield the sources of a table that has an index which begins with them, one look-up each."""
    column: Any = table.c.source
    last: str | None = None
    while True:
        query = sa.select(column).order_by(column).limit(1)
        if last is not None:
            query = query.where(column > last)
        last = connection.execute(query).scalar()
        if last is None:
            return
        yield last


def _sorts_bytewise(connection: sa.Connection) -> bool:
    """Whether the database compares texts by their bytes: then what begins alike stands together in an index."""
    if connection.dialect.name != "postgresql":
        return True
    # Every other order has all letters of one kind before the next.
    return bool(connection.execute(sa.select(sa.literal("B") < sa.literal("a"))).scalar())
