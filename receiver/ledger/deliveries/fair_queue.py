"""The deliveries that are due, past the lanes that may have none now: a backlog behind a shut lane costs nothing.

By time alone, each claim of any other delivery would read a hundred thousand of one dead address. So only the oldest
are read, and when those may not be sent, the oldest of each lane: the index over (sink, lane, due_at) jumps from lane
to lane.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from itertools import zip_longest
from typing import Any

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryState
from receiver.ledger.schema import deliveries

# Deliveries, the oldest, that are read before the lanes are searched one by one.
WINDOW = 200

_QUEUED = deliveries.c.state == sa.literal_column(f"'{DeliveryState.QUEUED}'")  # literal: the partial indexes need it
_ORDER = (deliveries.c.due_at, deliveries.c.id)


def due(sink: str, now: float) -> sa.ColumnElement[bool]:
    """Return the condition that a delivery is due for `sink`."""
    return sa.and_(deliveries.c.sink == sink, _QUEUED, deliveries.c.due_at <= now)


def choose(
    connection: sa.Connection,
    sink: str,
    shut: Collection[str],
    limit: int,
    now: float,
    *,
    lane_limit: int | None = None,
    claimed: Counter[str] | None = None,
) -> list[str]:
    """Return the ids of up to `limit` due deliveries whose lane is not `shut`.

    `lane_limit`: how many one lane may have, with those that it has `claimed`. The oldest come first, but where one
    lane holds up the rest each lane gets its turn.
    """
    taken = Counter(claimed or {})

    def room(lane: str) -> int:
        if lane in shut:
            return 0
        return limit if lane_limit is None else lane_limit - taken[lane]

    blocked = {lane for lane in [*shut, *taken] if room(lane) <= 0}
    rows = connection.execute(_oldest(sink, blocked, now, limit)).all()
    chosen: list[str] = []
    for row in rows:
        if room(row.lane) > 0:
            taken[row.lane] += 1
            chosen.append(row.id)
    if len(chosen) < limit and (blocked or len(rows) == limit):
        waiting = _walk(connection, sink, now, len(blocked) + limit, min(limit, lane_limit or limit))
        for turn in zip_longest(*(ids for lane, ids in waiting if lane not in blocked)):
            for lane, delivery in zip((lane for lane, _ in waiting if lane not in blocked), turn, strict=True):
                if delivery is not None and delivery not in chosen and room(lane) > 0 and len(chosen) < limit:
                    taken[lane] += 1
                    chosen.append(delivery)
    return chosen


def any_due(connection: sa.Connection, sink: str, shut: Collection[str], now: float) -> bool:
    """Whether a delivery is due whose lane is not `shut`."""
    if connection.execute(_oldest(sink, shut, now, 1)).first() is not None:
        return True
    return bool(shut) and any(lane not in shut for lane, _ in _walk(connection, sink, now, len(shut) + 1, 0))


def _oldest(sink: str, blocked: Collection[str], now: float, limit: int) -> sa.Select[Any]:
    columns = (deliveries.c.id, deliveries.c.lane, deliveries.c.due_at)
    if not blocked:
        return sa.select(*columns).where(due(sink, now)).order_by(*_ORDER).limit(limit)
    window = sa.select(*columns).where(due(sink, now)).order_by(*_ORDER).limit(max(WINDOW, 2 * limit)).subquery()
    free = sa.select(window).where(window.c.lane.not_in(sorted(blocked)))
    return free.order_by(window.c.due_at, window.c.id).limit(limit)


def _walk(connection: sa.Connection, sink: str, now: float, most: int, each: int) -> list[tuple[str, list[str]]]:
    """Return up to `most` lanes in which something is due, the longest waiting first, each with its `each` oldest."""

    def next_lane(condition: sa.ColumnElement[bool]) -> sa.ScalarSelect[Any]:
        found = sa.select(deliveries.c.lane).where(deliveries.c.sink == sink, _QUEUED, condition)
        return found.order_by(deliveries.c.lane).limit(1).scalar_subquery()

    walk = sa.select(next_lane(sa.true()).label("lane")).cte("walk", recursive=True)
    step = sa.select(next_lane(deliveries.c.lane > walk.c.lane).label("lane"))
    walk = walk.union_all(step.where(walk.c.lane.is_not(None)))

    def place(column: sa.Column[Any], number: int) -> sa.ColumnElement[Any]:
        found = sa.select(column).where(due(sink, now), deliveries.c.lane == walk.c.lane)
        return found.order_by(*_ORDER).limit(1).offset(number).scalar_subquery().label(f"{column.name}_{number}")

    ids = [place(deliveries.c.id, number) for number in range(each)]
    query = sa.select(walk.c.lane, place(deliveries.c.due_at, 0), *ids).where(walk.c.lane.is_not(None)).limit(most)
    rows = [row for row in connection.execute(query) if row.due_at_0 is not None]
    return [(row.lane, [each for each in row[2:] if each]) for row in sorted(rows, key=lambda row: row.due_at_0)]
