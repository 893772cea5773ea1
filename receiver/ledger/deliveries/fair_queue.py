"""Choose due deliveries of a sink with many lanes, taking the lanes in turn.

The cost does not grow with the backlog: the index over (sink, lane, due_at) jumps from lane to lane and reads one
delivery of each. It hardly grows with the lanes: a walk continues where the last one ended, and reads a bounded number
of lanes. A sink with a single lane needs no walk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from operator import attrgetter
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain import callback
from receiver.domain.delivery import DeliveryState
from receiver.ledger.schema import deliveries, in_state, lanes

_QUEUED: Final = in_state(DeliveryState.QUEUED)
# The condition for a queued delivery of a sink that has many lanes.
ONE_OF_MANY: Final = sa.and_(_QUEUED, deliveries.c.lane != deliveries.c.sink)


class WaitingLane(NamedTuple):
    """A lane with due deliveries. `due_at`: of the oldest one. `shut`: its breaker is not closed, but may be probed."""

    lane: str
    due_at: float
    shut: bool


@dataclass(slots=True)
class Rotation:
    """The position of one process in its repeated walks over the lanes of a sink: the lane read last, or ""."""

    after: str = ""


@dataclass(frozen=True, slots=True)
class ManyLanes:
    """The state of a sink with many lanes in the worker process that claims for it.

    `places`: maximum concurrent sends. `lane_limit`: maximum of one lane. `held`: number of claimed deliveries by lane.
    `probing`: how many of these are probes. `pages`: lanes that the first statement of a walk reads, and each later
    one. `walk`: maximum lanes that one walk reads.
    """

    places: int
    lane_limit: int
    held: Counter[str]
    probing: int
    rotation: Rotation
    pages: tuple[int, int] = (64, 512)
    walk: int = 2048


def due(sink: str | sa.ColumnElement[str], now: float | sa.BindParameter[float]) -> sa.ColumnElement[bool]:
    """Return the condition that a delivery is due for `sink`."""
    return sa.and_(deliveries.c.sink == sink, _QUEUED, deliveries.c.due_at <= now)


def in_lane(sink: str, lane: str) -> sa.ColumnElement[bool]:
    """Return the condition that a due delivery of `sink` belongs to `lane`, either the sink's own or one of many."""
    return sa.true() if lane == sink else sa.and_(ONE_OF_MANY, deliveries.c.lane == lane)


def choose(
    connection: sa.Connection, sink: str, limit: int, now: float, many: ManyLanes
) -> tuple[list[str], list[WaitingLane]]:
    """Return the ids of up to `limit` due deliveries of open lanes, and the lanes that may be probed.

    Places are shared by API key first (callback.room), then by lane. Keys take turns, and so do the lanes of a key, the
    longest waiting first. Each lane contributes one delivery before any contributes a second.
    """
    taken = Counter(callback.key_in(lane) for lane in many.held.elements())  # places, by key

    def room(key: str) -> int:
        return callback.room(key, taken, many.places)

    waiting: dict[str, list[WaitingLane]] = {}  # by key
    probes: list[WaitingLane] = []
    for page in _walk(connection, sink, now, many):
        for each in page:
            key = callback.key_in(each.lane)
            if room(key) <= 0:
                continue
            if each.shut:
                probes.append(each)
            elif many.held[each.lane] < many.lane_limit:
                waiting.setdefault(key, []).append(each)
        if sum(min(len(lanes), room(key)) for key, lanes in waiting.items()) >= limit:
            break
        if many.rotation.after and room(key := callback.key_in(many.rotation.after)) <= 0:
            many.rotation.after = callback.behind(key)  # skip the lanes of a caller whose share is used up
    turns = zip_longest(*(sorted(lanes, key=_since)[:limit] for lanes in waiting.values()))
    names = [each.lane for turn in turns for each in turn if each is not None][:limit]
    oldest = _oldest(connection, sink, names, min(limit, many.lane_limit), now)
    rounds = zip_longest(*(oldest.get(lane, [])[: many.lane_limit - many.held[lane]] for lane in names))
    chosen: list[str] = []
    for each_round in rounds:
        for lane, delivery in zip(names, each_round, strict=True):
            if delivery is not None and len(chosen) < limit and room(callback.key_in(lane)) > 0:
                taken[callback.key_in(lane)] += 1
                chosen.append(delivery)
    return chosen, sorted((each for each in probes if room(callback.key_in(each.lane)) > 0), key=_since)


_since: Final = attrgetter("due_at")


def _walk(connection: sa.Connection, sink: str, now: float, many: ManyLanes) -> Iterator[list[WaitingLane]]:
    """Yield the lanes with due deliveries page by page, except shut ones whose probe is not due.

    Goes around at most once, and reads a bounded number of lanes. The next walk begins after the last page.
    """
    rotation, seen, size, around = many.rotation, 0, many.pages[0], False
    start, wrapped = rotation.after, not rotation.after
    while not around and seen < many.walk:
        page = _page(connection, sink, rotation.after, start if wrapped else "", size)
        seen += len(page)
        if len(page) == size:
            rotation.after = page[-1].lane
        else:
            rotation.after, wrapped, around = "", True, wrapped
        yield [
            WaitingLane(row.lane, row.due_at, row.until is not None)
            for row in page
            if row.due_at is not None and row.due_at <= now and (row.until is None or row.until <= now)
        ]
        size = many.pages[1]


def _page(connection: sa.Connection, sink: str, after: str, last: str, size: int) -> Sequence[sa.Row[Any, Any, Any]]:
    """Read up to `size` lanes with queued deliveries after `after`, up to `last` ("": to the end), in index order.

    Each row has the time when the oldest delivery is due, and `until` of a breaker that is not closed.
    """
    within = sa.and_(deliveries.c.sink == sink, ONE_OF_MANY)

    def next_lane(behind: str | sa.ColumnElement[str]) -> sa.ScalarSelect[Any]:
        found = sa.select(deliveries.c.lane).where(within, deliveries.c.lane > behind)
        if last:
            found = found.where(deliveries.c.lane <= last)
        return found.order_by(deliveries.c.lane).limit(1).scalar_subquery()

    walk = sa.select(next_lane(after).label("lane"), sa.literal(1).label("number")).cte("walk", recursive=True)
    step = sa.select(next_lane(walk.c.lane), walk.c.number + 1)
    walk = walk.union_all(step.where(walk.c.lane.is_not(None), walk.c.number < size))
    oldest = sa.select(deliveries.c.due_at).where(within, deliveries.c.lane == walk.c.lane)
    oldest = oldest.order_by(deliveries.c.due_at).limit(1)
    shut_until = sa.select(lanes.c.until).where(lanes.c.lane == walk.c.lane, lanes.c.breaker != "closed")
    query = sa.select(
        walk.c.lane, oldest.scalar_subquery().label("due_at"), shut_until.scalar_subquery().label("until")
    )
    return connection.execute(query.where(walk.c.lane.is_not(None))).all()


def _oldest(connection: sa.Connection, sink: str, names: Sequence[str], each: int, now: float) -> dict[str, list[str]]:
    """Return the ids of the `each` oldest due deliveries of each of these lanes."""
    of_lane = deliveries.c.lane == sa.bindparam("b_lane", type_=sa.Text())
    oldest = sa.select(deliveries.c.id).where(due(sink, now), ONE_OF_MANY, of_lane)
    oldest = oldest.order_by(deliveries.c.due_at).limit(each)
    return {name: list(connection.scalars(oldest, {"b_lane": name})) for name in names}
