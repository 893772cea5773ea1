"""The list of events, the one that was recorded last first, and the bodies of single ones."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from receiver.ledger.filters import Condition, Filter, begins, of_events
from receiver.ledger.lists import narrowing
from receiver.ledger.lists.paging import Key, Order, Page, Row, Search, small_set, unsuccessful
from receiver.ledger.schema import events

# Of equal times by the order of recording.
ORDER: Final = Order((events.c.recorded_at, events.c.seq))
_SHOWN: Final = (
    *(column for column in events.c if column.name not in ("body", "fingerprint")),
    sa.func.length(events.c.body).label("size"),
)


def list_events(connection: sa.Connection, wanted: Filter, after: Key | None, limit: int) -> Page:
    """Return a page of the events without their bodies, each with the `size` of its body in bytes.

    All of the filter applies; of `limit` the parameter.
    """
    if wanted.impossible:
        return [], None
    it = events.c
    named = [small_set(events, begins(it.id, wanted.event_id))] if wanted.event_id else []
    conditions = of_events(wanted, bounded=True)
    if wanted == Filter(since=wanted.since, until=wanted.until, limit=wanted.limit):
        conditions = []  # the walk alone has all of it
    search = Search(
        ORDER,
        columns=_SHOWN,
        conditions=conditions,
        walks=_walks(wanted),
        since=wanted.since,
        until=wanted.until,
        floor=0.0,  # a bound, by which SQLite's planner sees that the index on time fits best
        sets=[*named, *narrowing.by_run(wanted, events), *narrowing.by_text(wanted, events)],
        wide=[*narrowing.by_delivery(wanted, events), *narrowing.by_source(wanted, events)],
        dear=bool(wanted.state),  # it is that of another table
    )
    return search.page(connection, after, limit)


def _walks(wanted: Filter) -> list[list[Condition]]:
    """Return the walks by the index that serves most of the filter."""
    if wanted.status and not {"completed", ""} & set(wanted.status):
        return [[events.c.outcome == each, *unsuccessful(events)] for each in sorted(set(wanted.status))]
    return [[]]


def named(connection: sa.Connection, beginning: str, source: str = "") -> list[Row]:
    """Return up to two events whose id is or begins so, without their bodies. `source`: its events only; "": of all."""
    it = events.c
    query = sa.select(*_SHOWN).where(begins(it.id, beginning))
    if source:
        query = query.where(it.source == source)
    return [dict(row._mapping) for row in connection.execute(query.order_by(it.id).limit(2))]
