"""What runs say, as words: see domain/words.py and text_index/."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, LargeBinary, PrimaryKeyConstraint, Table, Text
from sqlalchemy.dialects import postgresql

from receiver.ledger.schema.base import metadata

# What each run says, as words: see domain/words.py and text_index/. Its number is given anew whenever the run changes,
# so that the highest numbers are those of the runs that changed last; runs of before the index have negative ones.
run_texts = Table(
    "run_texts",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("source", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("changed_at", Double, nullable=False),  # the run's updated_at when it was read
    Column("document", Text, nullable=False),
    Index("uq_run_texts_source_run_id", "source", "run_id", unique=True),
)

# In which runs each word is: of each 16,384 numbers, a row a word. Words are compared as bytes. Under chunks below all
# others, which full chunks may have a word: see text_index/summaries.py.
run_words = Table(
    "run_words",
    metadata,
    Column("chunk", BigInteger, nullable=False),
    Column("word", Text().with_variant(postgresql.TEXT(collation="C"), "postgresql"), nullable=False),
    Column("runs", LargeBinary, nullable=False),  # see text_index/postings.py
    PrimaryKeyConstraint("chunk", "word"),
    sqlite_with_rowid=False,
)

# How far the index of words has come: one row.
text_index = Table(
    "text_index",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("newest", BigInteger, nullable=False),  # the highest number that was given
    Column("oldest", BigInteger, nullable=False),  # the lowest one
    Column("seen", Text, nullable=False),  # JSON: the place up to which changed runs were read
    Column("checked", Text, nullable=False),  # JSON: up to which they were read again, for those that came late
    Column("backfilled", Text),  # JSON: down to which runs of before the index were read; null: all were
    Column("owner", Text, nullable=False, server_default=""),  # who indexes now
    Column("leased_until", Double, nullable=False, server_default="0"),
)
