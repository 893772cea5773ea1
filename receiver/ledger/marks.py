"""Moments that the parts of all hosts must agree on, by name."""

from __future__ import annotations

import time
from typing import Final

import sqlalchemy as sa

from receiver.ledger.engine import Ledger
from receiver.ledger.schema import marks

# Until when entries of the inbox without a signature are let in, as versions before signatures wrote them: a day from
# when their ledger was migrated. A ledger without that mark never had such a version.
UNSIGNED_UNTIL: Final = "inbox_unsigned_until"


def read(connection: sa.Connection, name: str) -> float | None:
    """Return the mark `name`, in seconds since the epoch; None when there is none."""
    return connection.execute(sa.select(marks.c.at).where(marks.c.name == name)).scalar()


class UnsignedEntries:
    """Whether an entry of the inbox without a signature is let in now. Reads the ledger when one is met."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._until: float | None = None

    def __call__(self) -> bool:
        """Return whether it is. Raises LedgerUnavailable."""
        if self._until is None:
            self._until = self._ledger.read(lambda connection: read(connection, UNSIGNED_UNTIL)) or 0.0
        return time.time() < self._until
