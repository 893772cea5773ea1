"""The ledger's state as numbers, for /metrics: by sink, never by anything that a stranger can mint."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from receiver.domain.breaker import Lane
from receiver.domain.delivery import DeliveryState
from receiver.ledger.deliveries import lanes
from receiver.ledger.schema import deliveries, events

# Delivered and cancelled ones are left out: there may be millions, and they need nobody.
COUNTED = (DeliveryState.HELD, DeliveryState.QUEUED, DeliveryState.SENDING, DeliveryState.WAITING, DeliveryState.DEAD)


@dataclass(frozen=True, slots=True)
class Gauges:
    """`counts`: by (sink, state). `oldest_due`: when each sink's oldest queued delivery fell due, seconds since the
    epoch. `newest_event`: when the ledger last recorded an event, or None."""

    counts: dict[tuple[str, str], int]
    oldest_due: dict[str, float]
    lanes: list[Lane]
    newest_event: float | None


def read(connection: sa.Connection) -> Gauges:
    """Read all of them, in four indexed queries."""
    counted = connection.execute(
        sa.select(deliveries.c.sink, deliveries.c.state, sa.func.count())
        .where(deliveries.c.state.in_([state.value for state in COUNTED]))
        .group_by(deliveries.c.sink, deliveries.c.state)
    )
    oldest = connection.execute(
        sa.select(deliveries.c.sink, sa.func.min(deliveries.c.due_at))
        .where(deliveries.c.state == sa.literal_column(f"'{DeliveryState.QUEUED}'"))
        .group_by(deliveries.c.sink)
    )
    return Gauges(
        {(sink, state): count for sink, state, count in counted},
        {sink: due for sink, due in oldest},  # noqa: C416 - dict() takes a result for a mapping
        lanes.every(connection),
        connection.execute(sa.select(sa.func.max(events.c.recorded_at))).scalar(),
    )
