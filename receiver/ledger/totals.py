"""Totals over time: runs and deliveries counted by what they have in common, and runs that failed. Changes nothing.

Rows are counted as they are, with no counters of their own, so a total is as true as its list. A count looks at the
SCAN rows that changed last, and says so when there are more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryState
from receiver.domain.run import RESTARTABLE
from receiver.ledger.dialect import bucket_of
from receiver.ledger.filters import Condition, Filter, in_states, of_deliveries, of_runs, unsuccessful
from receiver.ledger.schema import deliveries, events, runs

# Rows that one count looks at.
SCAN: Final = 200_000
# Groups that one statement returns, the largest first.
GROUPS: Final = 5000
# Failed runs of each status that are looked at, the newest.
FAILED: Final = 5000
# Deliveries whose age is looked at.
AGES: Final = 2000
# And in each of many stretches of time at the least.
_LEAST_AGES: Final = 10

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
    """What is counted: rows that changed last from `since` on and before `until`, seconds since the epoch."""

    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that have `key` in common. `bucket`: its number, see `dialect.bucket_of`; None without buckets.

    `good`: completed runs, delivered deliveries. `ended`: those that have a result, good or not.
    """

    key: tuple[str, ...]
    bucket: int | None
    count: int
    good: int
    ended: int


@dataclass(frozen=True, slots=True)
class Counted:
    """`all`: everything together. `groups`: up to GROUPS. `since`: from when on all rows were counted."""

    all: Group
    groups: Sequence[Group]
    since: float


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is counted: its table, when a row changed, which rows are wanted, and which of them are good or ended."""

    moment: sa.Column[Any]
    rows: sa.FromClause
    conditions: Sequence[Condition]
    good: Condition
    ended: Condition


def count_runs(
    connection: sa.Connection, wanted: Filter, span: Span, by: Sequence[str] = (), bucket: float | None = None
) -> Counted:
    """Count runs that events have reported, by RUN_DIMENSIONS. Times of `wanted` do not count: `span` does."""
    edge = _edge(connection, runs.c.updated_at, span)
    subject = _Subject(
        runs.c.updated_at,
        runs,
        [runs.c.events > 0, *of_runs(_timeless(wanted))],
        runs.c.outcome == "completed",
        runs.c.final,
    )
    return _count(connection, subject, replace(span, since=edge), [RUN_DIMENSIONS[name] for name in by], bucket)


def count_deliveries(
    connection: sa.Connection, wanted: Filter, span: Span, by: Sequence[str] = (), bucket: float | None = None
) -> Counted:
    """Count deliveries, by DELIVERY_DIMENSIONS. Times of `wanted` do not count: `span` does."""
    it, columns = deliveries.c, [DELIVERY_DIMENSIONS[name] for name in by]
    subject = _Subject(
        it.updated_at,
        _joined({column.table for column in columns}),
        of_deliveries(_timeless(wanted)),
        it.state == DeliveryState.DELIVERED.value,
        it.state.in_((DeliveryState.DELIVERED.value, DeliveryState.DEAD.value)),
    )
    narrowed = [in_states(state) for state in wanted.state] or [[]]
    edge = max(_edge(connection, it.updated_at, span, *each) for each in narrowed)
    return _count(connection, subject, replace(span, since=edge), columns, bucket)


def ages(connection: sa.Connection, wanted: Filter, span: Span) -> dict[str, list[float]]:
    """Return, by sink, how many seconds after the end of its run each of the AGES newest was delivered, sorted.

    What was replayed is left out: its age is that of somebody's decision."""
    if wanted.state and DeliveryState.DELIVERED.value not in wanted.state:
        return {}
    it = deliveries.c
    delivered = it.state == DeliveryState.DELIVERED.value
    edge = _edge(connection, it.updated_at, span, delivered)
    rows = (
        sa.select(it.sink, it.updated_at - runs.c.finished_at)
        .select_from(_joined({runs}))
        .where(delivered, it.updated_at >= edge, it.updated_at < span.until, runs.c.finished_at.is_not(None))
        .where(_NOT_REPLAYED, *of_deliveries(_timeless(wanted)))
        .order_by(it.updated_at.desc())
        .limit(AGES)
    )
    found: dict[str, list[float]] = {}
    for sink, age in connection.execute(rows):
        found.setdefault(sink, []).append(max(0.0, age))
    return {sink: sorted(values) for sink, values in sorted(found.items())}


def ages_over_time(connection: sa.Connection, wanted: Filter, span: Span, bucket: float) -> dict[int, list[float]]:
    """Return, by the number of its bucket, the same of all sinks together: of so many of the newest in each bucket that
    they are AGES in all, or a few in each of very many."""
    it = deliveries.c
    first, last = math.floor(span.since / bucket), math.ceil(span.until / bucket)
    most = max(_LEAST_AGES, AGES // max(1, last - first))
    found: dict[int, list[float]] = {}
    for number in range(first, last):
        since, until = max(span.since, number * bucket), min(span.until, (number + 1) * bucket)
        newest = (
            sa.select(it.source, it.run_id, it.updated_at)
            .where(it.state == DeliveryState.DELIVERED.value, it.updated_at >= since, it.updated_at < until)
            .where(_NOT_REPLAYED, *of_deliveries(_timeless(wanted)))
            .order_by(it.updated_at.desc())
            .limit(most)
            .subquery()
        )
        same = sa.and_(runs.c.source == newest.c.source, runs.c.run_id == newest.c.run_id)
        age = newest.c.updated_at - runs.c.finished_at
        query = sa.select(age).select_from(newest.join(runs, same)).where(runs.c.finished_at.is_not(None))
        if rows := connection.execute(query).scalars().all():
            found[number] = sorted(max(0.0, each) for each in rows)
    return found


# Of one that has been delivered: a replay forgets what was tried in vain before.
_NOT_REPLAYED: Final = sa.or_(deliveries.c.attempts <= 1, deliveries.c.tried_at.is_not(None), deliveries.c.spent > 0)


def _timeless(wanted: Filter) -> Filter:
    return replace(wanted, since=None, until=None)


def _joined(tables: set[Any]) -> sa.FromClause:
    joined: sa.FromClause = deliveries
    if events in tables:
        joined = joined.outerjoin(events, events.c.id == deliveries.c.event_id)
    if runs in tables:
        same = sa.and_(runs.c.source == deliveries.c.source, runs.c.run_id == deliveries.c.run_id)
        joined = joined.outerjoin(runs, same)
    return joined


def _edge(connection: sa.Connection, moment: sa.Column[Any], span: Span, *conditions: Condition) -> float:
    """Return from when on there are no more than SCAN rows, and those that changed at the very same time."""
    query = sa.select(moment).where(*conditions, moment >= span.since, moment < span.until)
    edge = connection.execute(query.order_by(moment.desc()).limit(1).offset(SCAN)).scalar()
    return span.since if edge is None else float(edge)


def _count(
    connection: sa.Connection, subject: _Subject, span: Span, by: Sequence[sa.Column[Any]], bucket: float | None
) -> Counted:
    key = [sa.func.coalesce(column, "").label(f"key_{number}") for number, column in enumerate(by)]
    number = [] if bucket is None else [bucket_of(subject.moment, bucket).label("bucket")]
    measures = [
        sa.func.count().label("rows"),
        sa.func.count().filter(subject.good).label("good"),
        sa.func.count().filter(subject.ended).label("ended"),
    ]
    within = [subject.moment >= span.since, subject.moment < span.until, *subject.conditions]
    query = sa.select(*key, *number, *measures).select_from(subject.rows).where(*within)
    found = query.group_by(*(each.name for each in (*key, *number))).order_by(sa.desc("rows")).limit(GROUPS)
    rows = connection.execute(found).all() if by or bucket else []
    groups = [
        Group(tuple(row[: len(by)]), None if bucket is None else row.bucket, row.rows, row.good, row.ended)
        for row in rows
    ]
    if (by or bucket) and len(rows) < GROUPS:
        sums = [sum(each.count for each in groups), sum(each.good for each in groups)]
        return Counted(Group((), None, sums[0], sums[1], sum(each.ended for each in groups)), groups, span.since)
    whole = connection.execute(sa.select(*measures).select_from(subject.rows).where(*within)).one()
    return Counted(Group((), None, whole.rows, whole.good, whole.ended), groups, span.since)


class FailedRun(NamedTuple):
    """A run that failed. `at`: when it changed last."""

    source: str
    run_id: str
    workflow_id: str | None
    title: str | None
    outcome: str
    reason: str | None
    at: float


def failed_runs(connection: sa.Connection, wanted: Filter, span: Span) -> tuple[Sequence[FailedRun], float]:
    """Return the runs that failed, were terminated or timed out, the newest first, and from when on all of them are
    there. Times of `wanted` do not count: `span` does."""
    it = runs.c
    rest = of_runs(replace(wanted, since=None, until=None))
    found: list[FailedRun] = []
    edge = span.since
    for outcome in sorted(RESTARTABLE):
        query = (
            sa.select(it.source, it.run_id, it.workflow_id, it.title, it.outcome, it.failure_reason, it.updated_at)
            .where(it.outcome == outcome, *unsuccessful(runs), it.updated_at >= span.since, it.updated_at < span.until)
            .order_by(it.updated_at.desc())
            .limit(FAILED)
        )
        # The bound is on the rows that are read: a rare filter must not read on and on.
        newest = query.subquery()
        same = [newest.c.source == it.source, newest.c.run_id == it.run_id]
        rows = connection.execute(
            sa.select(newest).select_from(newest.join(runs, sa.and_(*same))).where(*rest) if rest else query
        ).all()
        found += [FailedRun(*row) for row in rows]
        last = connection.execute(
            sa.select(sa.func.min(newest.c.updated_at)).select_from(newest).having(sa.func.count() == FAILED)
        ).scalar()
        edge = max(edge, edge if last is None else float(last))
    kept = [each for each in found if each.at >= edge]
    return sorted(kept, key=lambda each: -each.at), edge
