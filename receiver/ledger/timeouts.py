"""Operations that the database cancelled for time. Once may be a busy moment. One that is cancelled again and again
does not end by itself, however often it is tried: that is an alarm of its own.

They are noted in the ledger itself, for what one process can't do another must show.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Final

import sqlalchemy as sa

from receiver.ledger import dialect
from receiver.ledger.schema import timeouts

# Seconds within which one cancellation follows another, and after the last of which the alarm is over.
SERIES: Final = 900.0
# Cancellations of one operation from which on it is an alarm.
REPEATED: Final = 2
_HERE: Final = "receiver.ledger."
# Modules that only run what others give them.
_CARRIERS: Final = tuple(f"receiver.ledger.{name}" for name in ("engine", "async_ledger", "dialect"))


@dataclass(frozen=True, slots=True)
class Cancelled:
    """An operation that was cancelled `times` times in a row. `first_at`, `last_at`: seconds since the epoch."""

    operation: str
    times: int
    first_at: float
    last_at: float


def operation_of(frames: Iterable[FrameType]) -> str:
    """Return which operation the frames of an error are of, the outermost first: the function of the ledger that was
    called, else whose code used the ledger."""
    ours = [(str(each.f_globals.get("__name__", "")), each.f_code.co_qualname) for each in frames]
    ours = [(module, function) for module, function in ours if module not in _CARRIERS]
    here = [f"{module.removeprefix(_HERE)}.{function}" for module, function in ours if module.startswith(_HERE)]
    callers = [f"{module}.{function}" for module, function in ours if module.startswith("receiver.")]
    return [*here, *callers, "unknown"][0]


def note(connection: sa.Connection, operation: str, now: float) -> int:
    """Note a cancellation. Returns how many there have been in a row."""
    insert = dialect.insert_statement(connection, timeouts)
    insert = insert.values(operation=operation, times=1, first_at=now, last_at=now)
    goes_on = timeouts.c.last_at >= now - SERIES
    changes = {
        "times": sa.case((goes_on, timeouts.c.times + 1), else_=1),
        "first_at": sa.case((goes_on, timeouts.c.first_at), else_=now),
        "last_at": now,
    }
    return int(connection.execute(dialect.or_update(insert, changes).returning(timeouts.c.times)).scalar_one())


def repeated(connection: sa.Connection, now: float) -> list[Cancelled]:
    """Return the operations that were cancelled again and again, and lately."""
    it = timeouts.c
    lately = sa.select(timeouts).where(it.times >= REPEATED, it.last_at >= now - SERIES).order_by(it.operation)
    return [Cancelled(*row) for row in connection.execute(lately)]
