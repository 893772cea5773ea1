"""Which attempts are of a delivery: their index begins with when the delivery was made, and then has its id.

An id may be a hash: an index that begins with it has a page of its own for each such entry, which is read and written
for it. One that begins with a time grows at its end.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from receiver.ledger.schema import attempts, deliveries


def of_delivery(delivery: sa.FromClause = deliveries) -> sa.ColumnElement[bool]:
    """Return the condition that an attempt is of `delivery`: the table of deliveries, or what has its columns."""
    return sa.and_(attempts.c.delivery_created_at == delivery.c.created_at, attempts.c.delivery_id == delivery.c.id)


def of_deliveries(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Return the condition that an attempt is of a delivery that meets `condition`: for a DELETE, which joins none.

    It names rows by the places that databases give them: SQLite finds no pair of values by an index that has both.
    """
    place = "ctid" if connection.dialect.name == "postgresql" else "rowid"
    row: sa.ColumnElement[Any] = sa.literal_column(f"attempts.{place}")
    return row.in_(sa.select(row).select_from(deliveries.join(attempts, of_delivery())).where(condition))
