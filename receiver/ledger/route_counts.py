"""How many events each route has matched lately, and what became of their deliveries."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.ledger.deliveries_by_event import of_event
from receiver.ledger.schema import deliveries, events

# Events of which the deliveries are counted: the newest. So a count costs the same however large the ledger is.
MOST: Final = 10_000


class RouteCounts(NamedTuple):
    """`by_route`: by route, deliveries by state. `since`: recorded since then, seconds since the epoch: later than was
    asked for where there are more events than are counted. `unrouted`: events that no route has matched."""

    by_route: dict[str, dict[str, int]]
    since: float
    unrouted: int


def count(connection: sa.Connection, since: float, source: str = "") -> RouteCounts:
    """Count the deliveries of the newest events, MOST at the most, that were recorded since then."""
    recorded: sa.Select[Any] = sa.select(
        events.c.id, events.c.source, events.c.run_id, events.c.recorded_at, events.c.unrouted
    )
    recorded = recorded.where(events.c.recorded_at >= since).order_by(events.c.recorded_at.desc()).limit(MOST)
    newest = recorded.cte("newest")
    oldest, number = connection.execute(sa.select(sa.func.min(newest.c.recorded_at), sa.func.count())).one()
    of_source = deliveries.c.source == source if source else sa.true()
    rows = connection.execute(
        sa.select(deliveries.c.route, deliveries.c.state, sa.func.count())
        .select_from(newest.join(deliveries, of_event(newest)))
        .where(of_source)
        .group_by(deliveries.c.route, deliveries.c.state)
    )
    found: dict[str, dict[str, int]] = {}
    for route, state, count_of in rows:
        found.setdefault(route, {})[state] = count_of
    unrouted = sa.select(sa.func.count()).select_from(newest.join(events, events.c.id == newest.c.id))
    unrouted = unrouted.where(events.c.unrouted, events.c.source == source if source else sa.true())
    return RouteCounts(found, oldest if number == MOST else since, connection.execute(unrouted).scalar_one())
