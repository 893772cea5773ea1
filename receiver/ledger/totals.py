"""Totals over time: runs and deliveries counted by what they have in common. Changes nothing.

Rows are counted as they are, with no counters of their own, so a total is as true as its list. A count looks at the
rows that changed last, up to a bound, and returns the time since which all were counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.deduplication import CANCELED
from receiver.domain.delivery import DeliveryState
from receiver.ledger.database.dialect import bucket_of
from receiver.ledger.lists.filters import Condition, Filter, in_states, of_deliveries, of_runs, same_run
from receiver.ledger.schema import deliveries, events, runs

# Deliveries whose age is looked at.
AGES: Final = 2000

# By what can be counted: of both, of runs, of deliveries.
RUN_DIMENSIONS: Final[Mapping[str, sa.Column[Any]]] = {
    "source": runs.c.source,
    "status": runs.c.outcome,
    "run_type": runs.c.run_type,
    "workflow": runs.c.workflow_id,
    "title": runs.c.title,
    "reason": runs.c.failure_reason,
}
DELIVERY_DIMENSIONS: Final[Mapping[str, sa.Column[Any]]] = {
    "source": deliveries.c.source,
    "sink": deliveries.c.sink,
    "state": deliveries.c.state,
    "route": deliveries.c.route,
    "status": events.c.outcome,
    "run_type": events.c.run_type,
    "workflow": runs.c.workflow_id,
    "title": runs.c.title,
    "reason": deliveries.c.reason,
}


@dataclass(frozen=True, slots=True)
class Span:
    """What is counted: rows that changed last from `since` on and before `until`, seconds since the epoch.

    `scan`: rows that one count looks at. `groups`: that one statement returns, the largest first.
    """

    since: float
    until: float
    scan: int = 200_000
    groups: int = 5000


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that have `key` in common. `bucket`: its number, see `dialect.bucket_of`; None without buckets.

    `good`: completed runs, delivered deliveries. `ended`: those with a result, good or not; nothing that was cancelled.
    """

    key: tuple[str, ...]
    bucket: int | None
    count: int
    good: int
    ended: int


@dataclass(frozen=True, slots=True)
class Counted:
    """`all`: everything together. `groups`: the largest. `since`: from when on all rows were counted."""

    all: Group
    groups: Sequence[Group]
    since: float


def count_runs(
    connection: sa.Connection, filters: Filter, span: Span, by: Sequence[str] = (), bucket: float | None = None
) -> Counted:
    """Count runs that events have reported, by RUN_DIMENSIONS. `span` replaces the times of `filters`."""
    it, columns = runs.c, [RUN_DIMENSIONS[name] for name in by]
    span = _bounded(connection, it.updated_at, span)
    rows = sa.select().select_from(runs).where(it.events > 0, *of_runs(timeless(filters)))
    ended = sa.and_(it.final, it.outcome != CANCELED)
    return _count(connection, rows, it.updated_at, it.outcome == "completed", ended, span, columns, bucket)


def count_deliveries(
    connection: sa.Connection, filters: Filter, span: Span, by: Sequence[str] = (), bucket: float | None = None
) -> Counted:
    """Count deliveries, by DELIVERY_DIMENSIONS. `span` replaces the times of `filters`."""
    it, columns = deliveries.c, [DELIVERY_DIMENSIONS[name] for name in by]
    bounded = [_bounded(connection, it.updated_at, span, *in_states(state)) for state in filters.state]
    span = max(bounded or [_bounded(connection, it.updated_at, span)], key=lambda each: each.since)
    tables: set[Any] = {column.table for column in columns}
    joined: sa.FromClause = deliveries
    if events in tables:
        joined = joined.outerjoin(events, events.c.id == it.event_id)
    if runs in tables:
        joined = joined.outerjoin(runs, sa.and_(*same_run(runs, deliveries)))
    rows = sa.select().select_from(joined).where(*of_deliveries(timeless(filters)))
    good, ended = it.state == DeliveryState.DELIVERED, it.state.in_((DeliveryState.DELIVERED, DeliveryState.DEAD))
    return _count(connection, rows, it.updated_at, good, ended, span, columns, bucket)


class EventCounts(NamedTuple):
    """Events of one kind. `copies`: later webhooks with the same body. `routed`: how many have deliveries."""

    via: str
    disposition: str
    events: int
    copies: int
    routed: int


def count_events(
    connection: sa.Connection, source: str, span: Span
) -> tuple[float, Sequence[EventCounts], Mapping[str, int]]:
    """Count the events that were recorded in a span, by kind, and their deliveries as they are now, by state.

    `source`: "" for all. Returns the time since which all were counted, too.
    """
    it, of = events.c, deliveries.c
    span = _bounded(connection, it.recorded_at, span)
    which = [it.recorded_at >= span.since, it.recorded_at < span.until, *([it.source == source] if source else [])]
    routed = sa.select(1).where(of.event_id == it.id).correlate(events).exists()
    kind = it.via, it.disposition
    counts = sa.func.count(), sa.func.sum(it.copies), sa.func.count().filter(routed)
    rows = connection.execute(sa.select(*kind, *counts).where(*which).group_by(*kind))
    joined = sa.select(of.state, sa.func.count()).select_from(events.join(deliveries, of.event_id == it.id))
    states = connection.execute(joined.where(*which).group_by(of.state))
    return span.since, [EventCounts(*row) for row in rows], {str(state): count for state, count in states}


def ages(connection: sa.Connection, filters: Filter, span: Span) -> dict[str, list[float]]:
    """Return, by sink, how many seconds after the end of its run each of the AGES newest was delivered, sorted.

    Replayed deliveries are left out: their age depends on the time of the replay."""
    if filters.state and DeliveryState.DELIVERED not in filters.state:
        return {}
    found: dict[str, list[float]] = {}
    span = _bounded(connection, deliveries.c.updated_at, span, deliveries.c.state == DeliveryState.DELIVERED)
    for sink, age in _ages(connection, filters, span, AGES):
        found.setdefault(sink, []).append(age)
    return {sink: sorted(values) for sink, values in sorted(found.items())}


def ages_over_time(
    connection: sa.Connection, filters: Filter, span: Span, bucket: float, most: int = AGES, least: int = 10
) -> dict[int, list[float]]:
    """Return the same of all sinks together, by the number of the bucket. Of each bucket the newest are read: `most` in
    all, but at least `least` in each."""
    first, last = math.floor(span.since / bucket), math.ceil(span.until / bucket)
    share = max(least, most // max(1, last - first))
    found: dict[int, list[float]] = {}
    for number in range(first, last):
        within = Span(max(span.since, number * bucket), min(span.until, (number + 1) * bucket))
        if values := sorted(age for _, age in _ages(connection, filters, within, share)):
            found[number] = values
    return found


def _ages(connection: sa.Connection, filters: Filter, span: Span, limit: int) -> list[tuple[str, float]]:
    """Return sink and age of up to `limit` of the newest deliveries in a span. Runs without an end are left out."""
    it = deliveries.c
    newest = (
        sa.select(it.sink, it.source, it.run_id, it.updated_at)
        .where(it.state == DeliveryState.DELIVERED, it.updated_at >= span.since, it.updated_at < span.until)
        .where(_NOT_REPLAYED, *of_deliveries(timeless(filters)))
        .order_by(it.updated_at.desc())
        .limit(limit)
        .subquery()
    )
    same = sa.and_(runs.c.source == newest.c.source, runs.c.run_id == newest.c.run_id)
    query = sa.select(newest.c.sink, newest.c.updated_at - runs.c.finished_at).select_from(newest.join(runs, same))
    rows = connection.execute(query.where(runs.c.finished_at.is_not(None)))
    return [(sink, max(0.0, age)) for sink, age in rows]


# Of a delivered one: a replay resets the count of failed attempts.
_NOT_REPLAYED: Final = sa.or_(deliveries.c.attempts <= 1, deliveries.c.tried_at.is_not(None), deliveries.c.spent > 0)


def first_at(connection: sa.Connection) -> float:
    """Return when the oldest event was recorded; the beginning of time without events."""
    found: float | None = connection.execute(sa.select(sa.func.min(events.c.recorded_at))).scalar()
    return found or 0.0


def timeless(filters: Filter) -> Filter:
    """Return the filter without its times."""
    return replace(filters, since=None, until=None)


def _bounded(connection: sa.Connection, moment: sa.Column[Any], span: Span, *conditions: Condition) -> Span:
    """Return the end of `span` with at most `scan` rows, and those that changed at the very same time as its first."""
    query = sa.select(moment).where(*conditions, moment >= span.since, moment < span.until)
    edge = connection.execute(query.order_by(moment.desc()).limit(1).offset(span.scan)).scalar()
    return span if edge is None else replace(span, since=float(edge))


def _count(
    connection: sa.Connection,
    rows: sa.Select[Any],
    moment: sa.Column[Any],
    good: Condition,
    ended: Condition,
    span: Span,
    by: Sequence[sa.Column[Any]],
    bucket: float | None,
) -> Counted:
    """Count `rows` in a span by columns and buckets of `moment`. `good`, `ended`: which of them count as such."""
    key = [sa.func.coalesce(column, "").label(f"key_{number}") for number, column in enumerate(by)]
    number = [] if bucket is None else [bucket_of(moment, bucket).label("bucket")]
    measures = [sa.func.count().label("rows")]
    measures += [sa.func.count().filter(each).label(name) for each, name in ((good, "good"), (ended, "ended"))]
    within = rows.where(moment >= span.since, moment < span.until)
    groups: list[Group] = []
    if by or bucket:
        query = within.add_columns(*key, *number, *measures).group_by(*(each.name for each in (*key, *number)))
        groups = [
            Group(tuple(row[: len(by)]), None if bucket is None else row.bucket, row.rows, row.good, row.ended)
            for row in connection.execute(query.order_by(sa.desc("rows")).limit(span.groups))
        ]
        if len(groups) < span.groups:
            sums = (sum(getattr(each, name) for each in groups) for name in ("count", "good", "ended"))
            return Counted(Group((), None, *sums), groups, span.since)
    total = connection.execute(within.add_columns(*measures)).one()
    return Counted(Group((), None, total.rows, total.good, total.ended), groups, span.since)
