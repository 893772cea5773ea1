"""Whether anything has happened that lists and counts would show: a look that costs next to nothing."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from receiver.ledger.schema import deliveries, events, runs

Mark = tuple[Any, ...]


def mark(connection: sa.Connection) -> Mark:
    """Return what is another once an event was recorded, or a run or a delivery has changed.

    Each value is the last one of an index. Of two changes in one transaction, or at the very same time, one may show
    with the next change only.
    """
    newest = [
        sa.select(sa.func.max(events.c.seq)),
        sa.select(sa.func.max(runs.c.updated_at)),
        sa.select(sa.func.max(deliveries.c.updated_at)),
    ]
    return tuple(connection.execute(sa.select(*(each.scalar_subquery() for each in newest))).one())
