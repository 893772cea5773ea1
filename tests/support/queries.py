"""Lists of a ledger as a whole, however many pages they are on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from receiver.ledger.filters import Filter
from receiver.ledger.lists import deliveries, events, runs
from receiver.ledger.lists.paging import Key, Page, Row

__all__ = ["Filter"]


def list_runs(connection: sa.Connection, wanted: Filter) -> list[Row]:
    """The first `wanted.limit` runs, the one that changed last first."""
    return _every_page(runs.list_runs, connection, wanted)


def list_events(connection: sa.Connection, wanted: Filter) -> list[Row]:
    """The first `wanted.limit` events, the newest first."""
    return _every_page(events.list_events, connection, wanted)


def list_deliveries(connection: sa.Connection, wanted: Filter) -> list[Row]:
    """The first `wanted.limit` deliveries, the one that changed last first."""
    return _every_page(deliveries.list_deliveries, connection, wanted)


def list_attempts(connection: sa.Connection, delivery: str = "dlv_", **wanted: Any) -> list[Row]:
    """The attempts of the deliveries whose id begins so, each one's oldest first."""
    return _every_page(
        lambda it, wanted, after, limit: deliveries.attempts_of(it, delivery, wanted, after, limit),
        connection,
        Filter(**wanted),
    )


def _every_page(
    page: Callable[[sa.Connection, Filter, Key | None, int], Page], connection: sa.Connection, wanted: Filter
) -> list[Row]:
    rows: list[Row] = []
    after: Key | None = None
    while len(rows) < wanted.limit:
        found, after = page(connection, wanted, after, wanted.limit - len(rows))
        rows += found
        if after is None:
            break
    return rows
