"""What the clock may have to do, by one small query: a tick at which nothing comes due costs no more.

It reads one row of each index, however much waits, and says which checks are worth making.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.ledger import operations
from receiver.ledger.database.engine import Ledger
from receiver.ledger.deliveries import recovery
from receiver.ledger.schema import to_index


class Agenda(NamedTuple):
    """`next_change`: seconds until a waiting delivery is due or a claim lapses; 0 or less for one that is due,
    infinite without any. `operations`: whether one is running. `words`: whether words of a run are to be indexed."""

    next_change: float
    operations: bool
    words: bool

    @property
    def changes(self) -> bool:
        """Whether a waiting delivery is due, or a claim has lapsed."""
        return self.next_change <= 0

    @property
    def rest(self) -> float:
        """Seconds for which there is nothing to do, as far as is known now."""
        return 0.0 if self.operations or self.words else max(0.0, self.next_change)


# Of a ledger that was not asked.
UNKNOWN: Final = Agenda(next_change=0.0, operations=True, words=True)


_TO_INDEX: Final = sa.select(to_index.c.seq).order_by(to_index.c.seq.desc()).limit(1)
QUERY: Final[Any] = sa.select(
    *(each.scalar_subquery().label(name) for name, each in zip(("due", "lapses"), recovery.NEXT_CHANGES, strict=True)),
    operations.ONE_RUNNING.scalar_subquery().is_not(None).label("operations"),
    _TO_INDEX.scalar_subquery().is_not(None).label("words"),
)


def read(ledger: Ledger) -> Agenda:
    """Return what there may be to do now, by the database's clock. Raises LedgerUnavailable."""
    now = ledger.now()
    found = ledger.read(lambda connection: connection.execute(QUERY).one(), transaction=False)
    due, lapses, operations, words = found
    next_change = min((at - now for at in (due, lapses) if at is not None), default=math.inf)
    return Agenda(next_change, bool(operations), bool(words))
