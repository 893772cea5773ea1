"""The ledger's state as numbers, for /metrics: by sink, never by anything that a stranger can mint."""

from __future__ import annotations

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
    """`counts`: by (sink, state). `oldest_due`: when each sink's oldest queued delivery fell due, seconds since the
    epoch. `newest_event`: when the ledger last recorded an event, or None. `watches`: walks of Skyvern's list.
    `missed`: how many schedules of each source started no run when they should have last."""

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


def read(connection: sa.Connection) -> Gauges:
    """Read all of them, in four indexed queries and two of small tables."""
    oldest = connection.execute(
        sa.select(deliveries.c.sink, sa.func.min(deliveries.c.due_at))
        .where(deliveries.c.state == sa.literal_column(f"'{DeliveryState.QUEUED}'"))
        .group_by(deliveries.c.sink)
    )
    return Gauges(
        counts(connection),
        {sink: due for sink, due in oldest},  # noqa: C416 - dict() takes a result for a mapping
        lanes.every(connection),
        connection.execute(sa.select(sa.func.max(events.c.recorded_at))).scalar(),
        watches.every(connection),
        account.count_missed(connection),
    )
