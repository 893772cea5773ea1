"""The ledger's state as numbers, for /metrics: by sink, never by a value that a request can invent. And what
routes have made.

Read every few seconds, so nothing here reads more of a long backlog than of a short one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryState
from receiver.ledger import account, timeouts, watches
from receiver.ledger.database_clock import database_now
from receiver.ledger.deliveries import lanes
from receiver.ledger.deliveries.lanes import WorstLane
from receiver.ledger.dialect import each_value
from receiver.ledger.filters import in_states
from receiver.ledger.schema import deliveries, events
from receiver.ledger.timeouts import Cancelled
from receiver.ledger.watches import Watch
from receiver.ledger.words import Coverage, coverage

# Delivered and cancelled ones are left out: there may be millions, and they need nobody.
COUNTED = (DeliveryState.HELD, DeliveryState.QUEUED, DeliveryState.SENDING, DeliveryState.WAITING, DeliveryState.DEAD)
# Up to how many deliveries of a sink in one state are counted; of more it is known that there are as many.
COUNT_LIMIT: Final = 10_000


# Events of which the deliveries are counted by route, the newest.
NEWEST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Gauges:
    """`counts`: by (sink, state), up to COUNT_LIMIT. `oldest_due`: since when each sink's oldest delivery waits beyond
    its time, seconds since the epoch. `lanes`: by sink, what is paused or shut. `newest_event`: when the ledger last
    recorded an event, or None. `watches`: walks of Skyvern's list. `missed`: how many schedules of each source started
    no run when they should have last. `cancelled`: operations that the database cancels for time again
    and again. `search`: which runs it finds. `read_at`: by the database's clock, as all of these times."""

    counts: dict[tuple[str, str], int]
    oldest_due: dict[str, float]
    lanes: dict[str, WorstLane]
    newest_event: float | None
    watches: list[Watch] = field(default_factory=list)
    missed: dict[str, int] = field(default_factory=dict)
    cancelled: list[Cancelled] = field(default_factory=list)
    search: Coverage = field(default_factory=Coverage)
    read_at: float = field(default=0.0, compare=False)


def counts(connection: sa.Connection, besides: Collection[str] = ()) -> dict[tuple[str, str], int]:
    """Count the deliveries of each sink, `besides` those, in each of the states COUNTED, up to COUNT_LIMIT."""
    sending = sa.select(deliveries.c.sink).where(_in(DeliveryState.SENDING)).limit(COUNT_LIMIT).subquery()
    found = {
        (sink, str(DeliveryState.SENDING)): count
        for sink, count in connection.execute(sa.select(sending.c.sink, sa.func.count()).group_by(sending.c.sink))
        if sink not in besides
    }

    def count(sink: str, state: DeliveryState) -> sa.ScalarSelect[Any]:
        some = sa.select(deliveries.c.due_at).where(_in(state), deliveries.c.sink == sink)
        # In the order of the index: else PostgreSQL may gather all of its entries before it counts the first.
        some = some.order_by(deliveries.c.due_at).limit(COUNT_LIMIT)
        return sa.select(sa.func.count()).select_from(some.subquery()).scalar_subquery()

    pairs = [(sink, state) for state in COUNTED for sink in _sinks(connection, state) if sink not in besides]
    return found | _of_each(connection, pairs, count)


def count_of(connection: sa.Connection, sink: str, states: Collection[DeliveryState]) -> int:
    """Count all deliveries of a sink in these states.

    It reads no others, but of those that were delivered or cancelled all sinks': no index of them begins with a sink.
    """
    of_sink = sa.select(sa.func.count()).select_from(deliveries).where(deliveries.c.sink == sink)
    counts = (of_sink.where(_in(state), *in_states(state)).scalar_subquery() for state in states)
    return sum(connection.execute(sa.select(*counts)).one())


def oldest_due(connection: sa.Connection, now: float) -> dict[str, float]:
    """Return since when the oldest delivery of each sink waits beyond its time: queued, held for another sink, waiting
    though its time has come, or under a claim that ran out. Clock and workers that are well leave none for long."""

    def oldest(sink: str, state: DeliveryState) -> sa.ScalarSelect[Any]:
        found = sa.select(deliveries.c.due_at).where(_in(state), deliveries.c.sink == sink)
        return found.order_by(deliveries.c.due_at).limit(1).scalar_subquery()

    timed = (DeliveryState.HELD, DeliveryState.QUEUED, DeliveryState.WAITING)
    pairs = [(sink, state) for state in timed for sink in _sinks(connection, state)]
    since = [(sink, due) for (sink, _), due in _of_each(connection, pairs, oldest).items() if due <= now]
    lapsed = sa.select(deliveries.c.sink, deliveries.c.claim_until)
    lapsed = lapsed.where(_in(DeliveryState.SENDING), deliveries.c.claim_until <= now)
    lapsed = lapsed.order_by(deliveries.c.claim_until).limit(COUNT_LIMIT)
    since += [(row.sink, row.claim_until) for row in connection.execute(lapsed)]
    return {sink: min(due for each, due in since if each == sink) for sink in {sink for sink, _ in since}}


def read(connection: sa.Connection) -> Gauges:
    """Read all of them."""
    now = database_now(connection)
    return Gauges(
        counts(connection),
        oldest_due(connection, now),
        lanes.worst_lanes(connection),
        connection.execute(sa.select(sa.func.max(events.c.recorded_at))).scalar(),
        watches.every(connection),
        account.count_missed(connection),
        timeouts.repeated(connection, now),
        coverage(connection),
        now,
    )


def _in(state: DeliveryState) -> sa.ColumnElement[bool]:
    return deliveries.c.state == sa.literal_column(f"'{state}'")  # a literal, for the partial indexes need it


def _sinks(connection: sa.Connection, state: DeliveryState) -> Iterable[str]:
    """Return the sinks that have deliveries in `state`, by a jump in the index from each to the next."""
    if state is DeliveryState.SENDING:
        return []
    return connection.execute(each_value(deliveries.c.sink, _in(state))).scalars().all()


def _of_each(connection: sa.Connection, pairs: list[tuple[str, DeliveryState]], value: Any) -> dict[Any, Any]:
    """Return the value of each (sink, state), all in one statement."""
    if not pairs:
        return {}
    columns = [value(sink, state).label(f"value_{number}") for number, (sink, state) in enumerate(pairs)]
    row = connection.execute(sa.select(*columns)).one()
    return {(sink, str(state)): found for (sink, state), found in zip(pairs, row, strict=True) if found is not None}


class RouteCounts(NamedTuple):
    """`by_route`: by route, deliveries by state. `since`: recorded since then, seconds since the epoch: later than was
    asked for where there are more events than are counted. `unrouted`: events that no route has matched."""

    by_route: dict[str, dict[str, int]]
    since: float
    unrouted: int


def count_routes(connection: sa.Connection, since: float, source: str = "") -> RouteCounts:
    """Count the deliveries of the newest events, at most NEWEST, that were recorded since then."""
    recorded: sa.Select[Any] = sa.select(
        events.c.id, events.c.source, events.c.run_id, events.c.recorded_at, events.c.unrouted
    )
    recorded = recorded.where(events.c.recorded_at >= since).order_by(events.c.recorded_at.desc()).limit(NEWEST)
    newest = recorded.cte("newest")
    oldest, number = connection.execute(sa.select(sa.func.min(newest.c.recorded_at), sa.func.count())).one()
    of_source = deliveries.c.source == source if source else sa.true()
    rows = connection.execute(
        sa.select(deliveries.c.route, deliveries.c.state, sa.func.count())
        .select_from(newest.join(deliveries, deliveries.c.event_id == newest.c.id))
        .where(of_source)
        .group_by(deliveries.c.route, deliveries.c.state)
    )
    found: dict[str, dict[str, int]] = {}
    for route, state, count_of in rows:
        found.setdefault(route, {})[state] = count_of
    unrouted = sa.select(sa.func.count()).select_from(newest.join(events, events.c.id == newest.c.id))
    unrouted = unrouted.where(events.c.unrouted, events.c.source == source if source else sa.true())
    return RouteCounts(found, oldest if number == NEWEST else since, connection.execute(unrouted).scalar_one())
