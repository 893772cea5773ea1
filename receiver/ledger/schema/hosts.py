"""What processes and hosts report of themselves."""

from __future__ import annotations

from sqlalchemy import Column, Double, Integer, Table, Text

from receiver.ledger.schema.base import metadata

# Operations that the database cancelled for time.
timeouts = Table(
    "timeouts",
    metadata,
    Column("operation", Text, primary_key=True),  # the function, such as deliveries.claims.claim
    Column("times", Integer, nullable=False),
    Column("first_at", Double, nullable=False),  # of those that followed each other
    Column("last_at", Double, nullable=False),
)

# The newest heartbeat of each process; see domain/parts.py.
heartbeats = Table(
    "heartbeats",
    metadata,
    Column("name", Text, primary_key=True),
    Column("beat", Text, nullable=False),  # JSON
    Column("beat_at", Double, nullable=False),  # by the database's clock
)
