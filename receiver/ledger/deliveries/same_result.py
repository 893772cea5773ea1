"""Which sinks have a delivery of a result already, under whatever event and id; and one adder of deliveries at a time.

Several events tell one result: the first, its repeats and its updates. Reroutes, backfills and moves to another sink
each look whether a sink has it, and then give it to it: of two that do so at one moment, the second must see what the
first has done.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import sqlalchemy as sa

from receiver.ledger import dialect
from receiver.ledger.schema import deliveries, events, runs


class OfResult(NamedTuple):
    """A delivery of the result that the event `asked` tells: its sink, its id and its own event."""

    asked: str
    sink: str
    id: str
    event_id: str


def lock(connection: sa.Connection, event_ids: Collection[str]) -> set[str]:
    """Lock these events and their runs until the transaction ends, against others that do, and against retention.

    Returns the events that are there.
    """
    ids = dialect.among(events.c.id, sorted(set(event_ids)))
    keys = connection.execute(sa.select(events.c.source, events.c.run_id).where(ids, events.c.run_id != "")).all()
    mine = sa.select(runs.c.run_id).where(dialect.of_runs(runs, ((row.source, row.run_id) for row in keys)))
    connection.execute(mine.order_by(runs.c.source, runs.c.run_id).with_for_update())
    kept = sa.select(events.c.id).where(ids).order_by(events.c.id).with_for_update(key_share=True)
    return set(connection.execute(kept).scalars())


def same(event: sa.FromClause, other: sa.FromClause) -> sa.ColumnElement[bool]:
    """Return the condition that two events, of a run, tell one result."""
    its, others = event.c, other.c
    first, others_first = (sa.func.coalesce(each.repeat_of, each.id) for each in (its, others))
    return sa.and_(its.source == others.source, its.run_id == others.run_id, first == others_first)


def told(connection: sa.Connection, event_ids: Collection[str], sinks: Collection[str] | None = None) -> list[OfResult]:
    """Return the deliveries of the results that the events tell. `sinks`: only to these."""
    asked, other, it = events.alias("asked"), events.alias("other"), deliveries.c
    found = sa.select(asked.c.id, it.sink, it.id, it.event_id).where(dialect.among(asked.c.id, sorted(set(event_ids))))
    found = found if sinks is None else found.where(it.sink.in_(sorted(set(sinks))))
    of_runs = found.join_from(asked, other, same(other, asked)).join(deliveries, it.event_id == other.c.id)
    of_no_run = found.join_from(asked, deliveries, it.event_id == asked.c.id)
    queries = (of_runs.where(asked.c.run_id != ""), of_no_run.where(asked.c.run_id == ""))
    return [OfResult(*row) for query in queries for row in connection.execute(query)]


def newest_updates(connection: sa.Connection, event_ids: Collection[str]) -> dict[str, str]:
    """Return, by event, the last update of the result that it tells, where one came after it."""
    asked, later = events.alias("asked"), events.alias("later")
    query = (
        sa.select(asked.c.id, later.c.id)
        .join(later, same(later, asked))
        .where(dialect.among(asked.c.id, sorted(set(event_ids))))
        .where(later.c.disposition == "update", later.c.seq > asked.c.seq)
    )
    return {row[0]: row[1] for row in connection.execute(query.order_by(later.c.seq))}
