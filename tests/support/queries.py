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
    """The runs, the one that changed last first."""
    return _every_page(runs.list_runs, connection, wanted)


def list_events(connection: sa.Connection, wanted: Filter) -> list[Row]:
    """The events, the newest first."""
    return _every_page(events.list_events, connection, wanted)


def list_deliveries(connection: sa.Connection, wanted: Filter) -> list[Row]:
    """The deliveries, the one that changed last first."""
    return _every_page(deliveries.list_deliveries, connection, wanted)


def list_attempts(connection: sa.Connection, delivery: str = "dlv_", **wanted: Any) -> list[Row]:
    """The attempts of the deliveries whose id begins so, each one's oldest first."""
    found = _every_page(deliveries.list_attempts, connection, Filter(delivery=delivery, **wanted))
    return sorted(found, key=lambda each: (each["sink"], each["delivery_id"], each["number"]))


def _every_page(
    page: Callable[[sa.Connection, Filter, Key | None, int], Page], connection: sa.Connection, wanted: Filter
) -> list[Row]:
    rows: list[Row] = []
    after: Key | None = None
    while True:
        found, after = page(connection, wanted, after, 500)
        rows += found
        if after is None:
            return rows
