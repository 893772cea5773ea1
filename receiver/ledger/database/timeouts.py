"""Record operations that the database cancelled for taking too long.

One cancellation may be a busy moment. Repeated ones do not recover with retries, and raise an alarm. They are stored in
the ledger, so that any process can report them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Final

import sqlalchemy as sa

from receiver.ledger.database import many_rows
from receiver.ledger.schema import timeouts

# Maximum seconds between two cancellations in a row, and after the last one until the alarm ends.
SERIES: Final = 900.0
# Number of cancellations in a row that raises the alarm.
REPEATED: Final = 2
_HERE: Final = "receiver.ledger."
# Modules that only run the work of other modules.
_CARRIERS: Final = tuple(
    f"receiver.ledger.database.{name}" for name in ("engine", "async_ledger", "dialect", "many_rows")
)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """An operation that was cancelled `times` times in a row. `first_at`, `last_at`: seconds since the epoch."""

    operation: str
    times: int
    first_at: float
    last_at: float


def operation_of(frames: Iterable[FrameType]) -> str:
    """Return the operation that an error's frames, outermost first, belong to.

    It is the called function of the ledger, or else the function that used the ledger."""
    ours = [(str(each.f_globals.get("__name__", "")), each.f_code.co_qualname) for each in frames]
    ours = [(module, function) for module, function in ours if module not in _CARRIERS]
    here = [f"{module.removeprefix(_HERE)}.{function}" for module, function in ours if module.startswith(_HERE)]
    callers = [f"{module}.{function}" for module, function in ours if module.startswith("receiver.")]
    return [*here, *callers, "unknown"][0]


def record(connection: sa.Connection, operation: str, now: float) -> int:
    """Record a cancellation. Returns the number of cancellations in a row."""
    insert = many_rows.insert_statement(connection, timeouts)
    insert = insert.values(operation=operation, times=1, first_at=now, last_at=now)
    goes_on = timeouts.c.last_at >= now - SERIES
    changes = {
        "times": sa.case((goes_on, timeouts.c.times + 1), else_=1),
        "first_at": sa.case((goes_on, timeouts.c.first_at), else_=now),
        "last_at": now,
    }
    return int(connection.execute(many_rows.or_update(insert, changes).returning(timeouts.c.times)).scalar_one())


def repeated(connection: sa.Connection, now: float) -> list[Cancelled]:
    """Return the operations that were recently cancelled several times in a row."""
    it = timeouts.c
    lately = sa.select(timeouts).where(it.times >= REPEATED, it.last_at >= now - SERIES).order_by(it.operation)
    return [Cancelled(*row) for row in connection.execute(lately)]
