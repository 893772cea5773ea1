"""Which deliveries are of an event, and which event a delivery has: they are found by the run, and then by the id.

No index of theirs begins with the event. Where its id is a hash alone, each entry of such an index is on a page of its
own, which is read and written for it: that made every event dearer the more there were.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from receiver.ledger import dialect
from receiver.ledger.dialect import unindexed
from receiver.ledger.schema import deliveries, events

# Source, run id, and the event's own id.
EventKey = tuple[str, str, str]


def of_event(event: sa.FromClause, delivery: sa.FromClause = deliveries) -> sa.ColumnElement[bool]:
    """Return the condition that a delivery is of `event`: the table of events, or what has its columns."""
    it = delivery.c
    return sa.and_(it.source == event.c.source, it.run_id == event.c.run_id, it.event_id == event.c.id)


def event_of(delivery: sa.FromClause, *, on_postgresql: bool) -> sa.ColumnElement[bool]:
    """Return the condition that an event is that of `delivery`, which has the columns of one: for a join of few rows.

    SQLite finds it by its run, near those that were recorded with it: by its id, for some runs a hash, one more page
    would be read from the file for each. PostgreSQL has that page in memory still: the event's INSERT has written it.
    """
    it, of = events.c, delivery.c
    if on_postgresql:
        return it.id == of.event_id
    of_run = sa.and_(it.source == of.source, it.run_id == of.run_id, unindexed(it.id) == of.event_id)
    # Of no run there may be very many.
    return sa.or_(sa.and_(of.run_id != "", of_run), sa.and_(of.run_id == "", it.id == of.event_id))


def of_events(keys: Collection[EventKey]) -> sa.ColumnElement[bool]:
    """Return the condition that a delivery is of one of these events."""
    it = deliveries.c
    # Of runs by the run alone, which has few events: databases would look for each event in each run.
    found = [
        sa.and_(
            dialect.of_runs(deliveries, source, run_ids),
            dialect.among(unindexed(it.event_id), sorted({event_id for _, run_id, event_id in keys if run_id})),
        )
        for source, run_ids in dialect.by_source((source, run_id) for source, run_id, _ in keys if run_id)
    ]
    # Of no run there may be very many.
    found += [
        sa.and_(it.source == source, it.run_id == "", dialect.among(it.event_id, ids))
        for source, ids in dialect.by_source((source, event_id) for source, run_id, event_id in keys if not run_id)
    ]
    return sa.or_(sa.false(), *found)
