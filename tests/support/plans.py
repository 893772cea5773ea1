"""How a database plans the statements that some work of the ledger runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event as sa_event

from receiver.ledger import Connection, Ledger

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
