"""The ledger's state as numbers, for /metrics: by sink, never by anything that a stranger can mint."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import sqlalchemy as sa

from receiver.domain.breaker import Lane
from receiver.domain.delivery import DeliveryState
from receiver.ledger import account, watches
from receiver.ledger.deliveries import lanes
from receiver.ledger.schema import deliveries, events
from receiver.ledger.watches import Watch

# Delivered and cancelled ones are left out: there may be millions, and they need nobody.
COUNTED = (DeliveryState.HELD, DeliveryState.QUEUED, DeliveryState.SENDING, DeliveryState.WAITING, DeliveryState.DEAD)


@dataclass(frozen=True, slots=True)
class Gauges:
    """`counts`: by (sink, state). `oldest_due`: since when each sink's oldest delivery waits beyond its time, seconds
    since the epoch. `newest_event`: when the ledger last recorded an event, or None. `watches`: walks of Skyvern's
    list. `missed`: how many schedules of each source started no run when they should have last."""

    counts: dict[tuple[str, str], int]
    oldest_due: dict[str, float]
    lanes: list[Lane]
    newest_event: float | None
    watches: list[Watch] = field(default_factory=list)
    missed: dict[str, int] = field(default_factory=dict)


def counts(connection: sa.Connection) -> dict[tuple[str, str], int]:
    """Count the deliveries of each sink in each of the states COUNTED."""
    counted = connection.execute(
        sa.select(deliveries.c.sink, deliveries.c.state, sa.func.count())
        .where(deliveries.c.state.in_([state.value for state in COUNTED]))
        .group_by(deliveries.c.sink, deliveries.c.state)
    )
    return {(sink, state): count for sink, state, count in counted}


def oldest_due(connection: sa.Connection, now: float) -> dict[str, float]:
    """Return since when the oldest delivery of each sink waits beyond its time: queued, held for another sink, waiting
    though its time has come, or under a claim that ran out. Clock and workers that are well leave none for long."""
    it = deliveries.c
    since = sa.case((it.state == DeliveryState.SENDING.value, it.claim_until), else_=it.due_at)
    states = (DeliveryState.HELD, DeliveryState.QUEUED, DeliveryState.WAITING, DeliveryState.SENDING)
    rows = connection.execute(
        sa.select(it.sink, sa.func.min(since))
        .where(it.state.in_([state.value for state in states]), since <= now)
        .group_by(it.sink)
    )
    return {sink: due for sink, due in rows}  # noqa: C416 - dict() takes a result for a mapping


def read(connection: sa.Connection) -> Gauges:
    """Read all of them, in four indexed queries and two of small tables."""
    return Gauges(
        counts(connection),
        oldest_due(connection, time.time()),
        lanes.every(connection),
        connection.execute(sa.select(sa.func.max(events.c.recorded_at))).scalar(),
        watches.every(connection),
        account.count_missed(connection),
    )
