"""What SQLite's planner knows of the tables: nothing, until it is told to look. PostgreSQL looks by itself.

Without, it takes an index for another: of a long backlog it then reads all where some rows would do.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from receiver.ledger.engine import Ledger
from receiver.ledger.schema import events

# Events below which nothing is worth knowing, and the growth after which it is looked again.
LEAST: Final = 1000
GROWTH: Final = 4
# Rows of each index that are looked at: so it takes some milliseconds, whatever the size of the ledger.
_SAMPLE: Final = 1000


def learn(ledger: Ledger, known: int) -> int:
    """Let SQLite look at its tables, if the ledger has grown much since its newest event had the number `known`.

    Returns the number to call it with the next time, which is 0 at first. A connection that is open learns of it at the
    first time; at later ones, when it is opened anew. Raises LedgerUnavailable.
    """
    if ledger.dialect != "sqlite":
        return known
    newest: int = ledger.read(lambda connection: connection.execute(sa.select(sa.func.max(events.c.seq))).scalar()) or 0
    if newest < max(LEAST, GROWTH * known):
        return known
    ledger.alter(_look)
    return newest


def _look(connection: sa.Connection) -> None:
    connection.exec_driver_sql(f"PRAGMA analysis_limit = {_SAMPLE}")
    connection.exec_driver_sql("ANALYZE")
