"""What an index serves of a filter by run, event, source or state: sets of rows, as `paging.Search` takes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import sqlalchemy as sa

from receiver.domain.run import RunKey
from receiver.ledger import dialect
from receiver.ledger.deliveries_by_event import of_events
from receiver.ledger.expressions import each_value
from receiver.ledger.filters import Condition, Filter, begins, text_query
from receiver.ledger.lists.paging import SmallSet, count_up_to, small_set
from receiver.ledger.schema import deliveries, events
from receiver.ledger.words import find_all

# Runs that are looked up one by one; of more, some are soon found along a list's order.
FEW: Final = 200
# Deliveries in a state whose runs or events are looked up one by one.
FEW_DELIVERIES: Final = 500
# What sorts behind all that begins alike, by bytes.
_LAST: Final = "\U0010ffff"


def by_run(wanted: Filter, table: sa.Table) -> list[SmallSet]:
    """Return the rows of `table`, which has an index on source and run, of a run or of the runs that begin alike."""
    if not (wanted.run_id or wanted.run_prefix):
        return []

    def found(connection: sa.Connection) -> Condition | None:
        of_source = table.c.source.in_([wanted.source] if wanted.source else sources(connection, table))
        named = [table.c.run_id == wanted.run_id] if wanted.run_id else begins_with(table, wanted.run_prefix)
        return small_set(table, sa.and_(of_source, *named))(connection)

    return [found]


def begins_with(table: sa.Table, beginning: str) -> list[Condition]:
    """Return the conditions that a run's id begins so, for an index: it sorts bytewise, so they stand together."""
    return [table.c.run_id >= beginning, table.c.run_id < beginning + _LAST]


def by_text(wanted: Filter, table: sa.Table) -> list[SmallSet]:
    """Return the rows of `table`, which has an index on source and run, of the runs that say what is searched for."""
    if not wanted.text:
        return []

    def found(connection: sa.Connection) -> Condition | None:
        keys = find_all(connection, text_query(wanted.text), FEW)
        if keys is None:
            return None
        return small_set(table, sa.or_(sa.false(), *_of_runs(table, keys)))(connection)

    return [found]


def by_source(wanted: Filter, table: sa.Table) -> list[SmallSet]:
    """Return the rows of `table`, which has an index that begins with the source, of that source."""
    if not wanted.source:
        return []
    return [small_set(table, table.c.source == wanted.source)]


def by_event(wanted: Filter, table: sa.Table) -> list[SmallSet]:
    """Return the rows of an event, or of those that begin alike: their deliveries, or their runs."""
    if not wanted.event_id:
        return []

    def found(connection: sa.Connection) -> Condition | None:
        named = sa.select(events.c.id, events.c.source, events.c.run_id).where(begins(events.c.id, wanted.event_id))
        keys = connection.execute(named.limit(FEW + 1)).all()
        if len(keys) > FEW:  # the id is cut very short
            return None
        if table is deliveries:
            return of_events([(key.source, key.run_id, key.id) for key in keys])
        its = _of_runs(table, {(key.source, key.run_id) for key in keys})
        return small_set(table, sa.or_(sa.false(), *its))(connection)

    return [found]


def by_delivery(wanted: Filter, table: sa.Table) -> list[SmallSet]:
    """Return the runs or events of the deliveries in a state in which few are, and which meet the rest."""
    if not wanted.state:
        return []
    it = deliveries.c

    def found(connection: sa.Connection) -> Condition | None:
        # Each state by the index that begins with it; the rest of the filter is for the rows that are found.
        in_states = [it.state == each for each in set(wanted.state)]
        count = sum(count_up_to(connection, deliveries, each, FEW_DELIVERIES + 1) for each in in_states)
        if count > FEW_DELIVERIES:
            return None
        which = sa.select(it.event_id, it.source, it.run_id)
        rows = [row for each in in_states for row in connection.execute(which.where(each))]
        if table is events:
            return dialect.among(events.c.id, sorted({row.event_id for row in rows}))
        return sa.or_(sa.false(), *_of_runs(table, [(row.source, row.run_id) for row in rows]))

    return [found]


def _of_runs(table: sa.Table, keys: Iterable[RunKey]) -> list[Condition]:
    """Return the conditions, of which each row of these runs meets one."""
    return [dialect.of_runs(table, source, run_ids) for source, run_ids in dialect.by_source(keys)]


def sources(connection: sa.Connection, table: sa.Table) -> list[str]:
    """Return the sources of a table that has an index which begins with them, one look-up each."""
    return list(connection.execute(each_value(table.c.source)).scalars())
