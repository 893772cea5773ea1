"""The index of words, filled as the clock does it."""

from __future__ import annotations

import sqlalchemy as sa

from receiver.domain.redaction import Redactor
from receiver.ledger import Ledger, words
from receiver.ledger.schema import runs, to_index

NOTHING = Redactor([])


def index(ledger: Ledger, redactor: Redactor = NOTHING, batch: int = words.BATCH) -> int:
    """Index all changes, `batch` at a time. Returns how many there were."""
    count = 0
    while some := ledger.write(lambda connection: words.index(connection, redactor, batch)):
        count += some
    return count


def queue_all(ledger: Ledger) -> None:
    """Queue all runs in the order of their changes, where rows were written past the code that records."""
    order = runs.c.updated_at, runs.c.source, runs.c.run_id
    query = sa.select(runs.c.source, runs.c.run_id, runs.c.updated_at).order_by(*order)
    into = sa.insert(to_index).from_select(["source", "run_id", "queued_at"], query)
    ledger.write(lambda connection: connection.execute(into))
