"""Removing what has ended and is old. Keeps every event of which a delivery is still under way."""

from __future__ import annotations

import sqlalchemy as sa

from receiver.domain.delivery import ENDED, DeliveryState
from receiver.ledger import bulk
from receiver.ledger.schema import attempts, deliveries, events, lanes, runs

# Events that one transaction removes at the most, so that nobody waits long for the ledger.
BATCH = 500


def remove(connection: sa.Connection, before: float) -> int:
    """Remove events recorded before `before` whose deliveries have all ended, with those. Returns how many events."""
    under_way = (
        sa.select(sa.literal(1))
        .where(
            deliveries.c.event_id == events.c.id,
            deliveries.c.state.not_in([state.value for state in ENDED]),
        )
        .exists()
    )
    old = connection.execute(
        sa.select(events.c.id, events.c.source, events.c.run_id)
        .where(events.c.recorded_at < before, ~under_way)
        .order_by(events.c.recorded_at)
        .limit(BATCH)
    ).all()
    if not old:
        return 0
    ids = [row.id for row in old]
    theirs = sa.select(deliveries.c.id).where(deliveries.c.event_id.in_(ids))
    connection.execute(sa.delete(attempts).where(attempts.c.delivery_id.in_(theirs)))
    connection.execute(sa.delete(deliveries).where(deliveries.c.event_id.in_(ids)))
    connection.execute(sa.delete(events).where(events.c.id.in_(ids)))
    left = sa.select(sa.literal(1)).where(events.c.source == runs.c.source, events.c.run_id == runs.c.run_id).exists()
    for source in {row.source for row in old}:
        connection.execute(
            sa.delete(runs).where(
                runs.c.source == source,
                runs.c.run_id.in_({row.run_id for row in old if row.source == source}),
                runs.c.updated_at < before,
                ~left,
            )
        )
    return len(ids)


def remove_lanes(connection: sa.Connection, before: float) -> int:
    """Remove the lanes of destinations, such as callers' addresses, that changed last before `before` and to which no
    delivery is under way; never a whole sink's own lane, and none that is paused. Returns how many."""
    old = sa.and_(lanes.c.updated_at < before, lanes.c.lane != lanes.c.sink, lanes.c.paused.is_(False))
    found = connection.execute(
        sa.select(lanes.c.lane, lanes.c.sink).where(old).order_by(lanes.c.lane).limit(BATCH)
    ).all()
    if not found:
        return 0
    under_way = sa.select(deliveries.c.lane).where(
        deliveries.c.sink.in_({row.sink for row in found}),
        deliveries.c.state.in_([state.value for state in DeliveryState if state not in ENDED]),
        bulk.among(connection, deliveries.c.lane, [row.lane for row in found]),
    )
    busy = set(connection.execute(under_way.distinct()).scalars())
    gone = [row.lane for row in found if row.lane not in busy]
    connection.execute(sa.delete(lanes).where(bulk.among(connection, lanes.c.lane, gone), old))
    return len(gone)
