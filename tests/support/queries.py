"""Complete lists of a ledger, and how a database plans its statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event as sa_event

from receiver.ledger import Connection, Ledger
from receiver.ledger.lists import deliveries, events, runs
from receiver.ledger.lists.filters import Filter
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


Asked = dict[str, Any]  # by statement, the parameters that it was last run with


@contextmanager
def asked_of(ledger: Ledger) -> Iterator[Asked]:
    """Collect the statements that the ledger runs in the block."""
    asked: Asked = {}

    def note(connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, executemany: bool) -> None:
        if connection.engine.url == ledger.url:
            asked[statement] = parameters[0] if executemany else parameters

    sa_event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        sa_event.remove(sa.Engine, "before_cursor_execute", note)


def plans_of(ledger: Ledger, asked: Asked) -> dict[str, list[str]]:
    """Return the lines of the plan of each of these statements that reads or writes tables, for its parameters."""
    explain = "EXPLAIN" if ledger.dialect == "postgresql" else "EXPLAIN QUERY PLAN"

    def look(connection: Connection) -> dict[str, list[str]]:
        return {
            statement: [str(row[-1]) for row in connection.exec_driver_sql(f"{explain} {statement}", parameters)]
            for statement, parameters in asked.items()
            if statement.lstrip().startswith(("SELECT", "WITH", "INSERT", "UPDATE", "DELETE"))
        }

    return ledger.write(look)


def plans_of_work(ledger: Ledger, work: Callable[[Connection], object]) -> dict[str, list[str]]:
    """Return the plans of the statements that `work` runs in one transaction."""
    with asked_of(ledger) as asked:
        ledger.write(work)
    return plans_of(ledger, asked)
