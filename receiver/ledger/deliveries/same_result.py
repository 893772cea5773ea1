"""Find the sinks that already have a delivery of a result, and serialize the creation of such deliveries.

Several events have the same result: the first, its repeats and its updates. Reroutes and moves check whether a sink has
a delivery of a result before they create one. If two do so at the same time, the second must see the changes of the
first.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import sqlalchemy as sa

from receiver.ledger.database import dialect
from receiver.ledger.schema import deliveries, events, runs


class OfResult(NamedTuple):
    """A delivery of the result of the event `asked`: its sink, its id and its event."""

    asked: str
    sink: str
    id: str
    event_id: str


def lock(connection: sa.Connection, event_ids: Collection[str]) -> set[str]:
    """Lock these events and their runs until the transaction ends, against other calls and against retention.

    Returns the existing events.
    """
    ids = dialect.among(events.c.id, sorted(set(event_ids)))
    keys = connection.execute(sa.select(events.c.source, events.c.run_id).where(ids, events.c.run_id != "")).all()
    mine = sa.select(runs.c.run_id).where(dialect.of_runs(runs, ((row.source, row.run_id) for row in keys)))
    connection.execute(mine.order_by(runs.c.source, runs.c.run_id).with_for_update())
    kept = sa.select(events.c.id).where(ids).order_by(events.c.id).with_for_update(key_share=True)
    return set(connection.execute(kept).scalars())


def same(event: sa.FromClause, other: sa.FromClause) -> sa.ColumnElement[bool]:
    """Return the condition that two events of a run have the same result."""
    its, others = event.c, other.c
    first, others_first = (sa.func.coalesce(each.repeat_of, each.id) for each in (its, others))
    return sa.and_(its.source == others.source, its.run_id == others.run_id, first == others_first)


def existing_deliveries(
    connection: sa.Connection, event_ids: Collection[str], sinks: Collection[str] | None = None
) -> list[OfResult]:
    """Return the deliveries of the results of these events. `sinks`: only to these."""
    asked, other, it = events.alias("asked"), events.alias("other"), deliveries.c
    found = sa.select(asked.c.id, it.sink, it.id, it.event_id).where(dialect.among(asked.c.id, sorted(set(event_ids))))
    found = found if sinks is None else found.where(it.sink.in_(sorted(set(sinks))))
    of_runs = found.join_from(asked, other, same(other, asked)).join(deliveries, it.event_id == other.c.id)
    of_no_run = found.join_from(asked, deliveries, it.event_id == asked.c.id)
    queries = (of_runs.where(asked.c.run_id != ""), of_no_run.where(asked.c.run_id == ""))
    return [OfResult(*row) for query in queries for row in connection.execute(query)]


def events_of(connection: sa.Connection, event_ids: Collection[str]) -> set[str]:
    """Return these events, and all others with the same results."""
    asked, other = events.alias("asked"), events.alias("other")
    query = sa.select(other.c.id).join_from(asked, other, same(other, asked))
    mine = dialect.among(asked.c.id, sorted(set(event_ids)))
    return {*event_ids, *connection.scalars(query.where(mine, asked.c.run_id != ""))}


def newest_updates(connection: sa.Connection, event_ids: Collection[str]) -> dict[str, str]:
    """Return by event the last later update of its result, if any."""
    asked, later = events.alias("asked"), events.alias("later")
    query = (
        sa.select(asked.c.id, later.c.id)
        .join(later, same(later, asked))
        .where(dialect.among(asked.c.id, sorted(set(event_ids))))
        .where(later.c.disposition == "update", later.c.seq > asked.c.seq)
    )
    return {row[0]: row[1] for row in connection.execute(query.order_by(later.c.seq))}
