"""What runs say, as words: see domain/words.py and ledger/words.py."""

from __future__ import annotations

from sqlalchemy import Column, Double, Index, Table, Text

from receiver.ledger.schema.base import Serial, metadata

# Changes of runs that are not indexed yet: an outbox. Recording adds a row; the clock indexes the run and deletes it.
# SQLite must never give out a number again, so its column is AUTOINCREMENT.
to_index = Table(
    "to_index",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),  # the order of changes
    Column("source", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("queued_at", Double, nullable=False),
    sqlite_autoincrement=True,
)

# What each run says. The index over it is `words`, a table of FTS5, or a column of PostgreSQL: see ledger/words.py.
run_texts = Table(
    "run_texts",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=False),  # of its change
    Column("source", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("changed_at", Double, nullable=False),  # the run's updated_at when it was read
    Column("document", Text, nullable=False),
    Index("uq_run_texts_source_run_id", "source", "run_id", unique=True),
)
