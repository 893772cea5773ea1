"""The indexes of the ledger's tables, made beside the work that goes on. Knows which are declared in `schema`.

An index is declared once, in `schema`. A migration makes those of a new table with it; an index that a table gets later
is made here, after the migrations and outside of their transaction, which would keep every writer out for minutes. So
a change of its columns takes a new name, and the old one is among the REPLACED: dropped when the new one is there.

PostgreSQL makes that of a large table with CREATE INDEX CONCURRENTLY. One that was interrupted stays behind as invalid,
and is made anew by whoever starts next. SQLite has one writer at a time: each index is a transaction of its own, so
that others get in between.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex

from receiver.ledger.engine import Ledger
from receiver.ledger.schema import metadata

log = logging.getLogger("runhook.ledger")

# Bytes of a table up to which PostgreSQL makes its index while writers wait: some milliseconds.
SMALL: Final = 4 << 20
# What earlier releases declared, by name, with the tables.
REPLACED: Final = {
    "ix_deliveries_event_id": "deliveries",
    "ix_deliveries_source_run_id": "deliveries",
    "pk_attempts": "attempts",  # of PostgreSQL alone: migration 0020 has taken it from SQLite's table
}
_ADVISORY_LOCK: Final = 0x52554E484F4F4C  # "RUNHOOL", beside that of the migrations
# Seconds between two looks at what another process is making.
_LOOK: Final = 0.3

_FOUND: Final = """\
SELECT own.relname, i.indisvalid FROM pg_index i JOIN pg_class own ON own.oid = i.indexrelid
 JOIN pg_class t ON t.oid = i.indrelid WHERE pg_table_is_visible(t.oid) AND t.relnamespace = own.relnamespace"""
_BUILDING: Final = "SELECT count(*) FROM pg_stat_progress_create_index WHERE datname = current_database()"


def lacking(connection: sa.Connection) -> list[sa.Index]:
    """Return the declared indexes that the database lacks, or has not finished."""
    found = _found(connection)
    return [index for index in _declared() if not found.get(str(index.name), False)]


def ensure_indexes(ledger: Ledger) -> None:
    """Make the indexes that are lacking, then drop those that are replaced, or wait for another process that does.

    Raises LedgerUnavailable.
    """
    told = False
    while steps := ledger.read(_steps):
        name, step = steps[0]
        with _alone(ledger) as alone:
            if alone:
                step(ledger)
                continue
        if not told:
            log.info("ledger.waiting index=%s: another process makes or drops it", name)
        told = True
        time.sleep(_LOOK)


def _steps(connection: sa.Connection) -> Sequence[tuple[str, Callable[[Ledger], None]]]:
    """Return what is to be done, in this order, with the names of the indexes."""
    there = _found(connection)
    making = [(str(index.name), partial(_make, index=index)) for index in lacking(connection)]
    return making + [(name, partial(_drop, name=name)) for name in REPLACED if name in there]


def _declared() -> Iterator[sa.Index]:
    for table in metadata.sorted_tables:
        yield from sorted(table.indexes, key=lambda index: str(index.name))


def _found(connection: sa.Connection) -> dict[str, bool]:
    """Return the indexes that are there, each with whether it is finished."""
    if connection.dialect.name == "sqlite":
        names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'index'").scalars()
        return dict.fromkeys(names, True)
    return {name: bool(valid) for name, valid in connection.exec_driver_sql(_FOUND)}


@contextmanager
def _alone(ledger: Ledger) -> Iterator[bool]:
    """Say whether this process may make indexes, and keep others from it for the block.

    The lock's transaction has no snapshot, for which CREATE INDEX CONCURRENTLY would wait; and none waits for the lock
    within a statement, which has one. A session's lock would be lost, or kept, behind a connection pooler.
    """
    if ledger.dialect == "sqlite":
        yield True  # its writers have a lock of their own
        return
    with ledger.idle_transaction() as connection:
        got = connection.exec_driver_sql(f"SELECT pg_try_advisory_xact_lock({_ADVISORY_LOCK})").scalar_one()
        # Of a process that has died the server may be at it still.
        yield bool(got) and not connection.exec_driver_sql(_BUILDING).scalar_one()


def _make(ledger: Ledger, index: sa.Index) -> None:
    began = time.monotonic()
    assert index.table is not None
    if _is_soon_done(ledger, index.table.name):
        ledger.alter(lambda connection: _make_within(connection, index))
    else:
        log.info("ledger.index name=%s table=%s: it is made while work goes on", index.name, index.table.name)
        ledger.run_alone(f"DROP INDEX CONCURRENTLY IF EXISTS {index.name}")
        statement = ledger.read(lambda connection: str(CreateIndex(index).compile(connection)))
        ledger.run_alone(statement.replace("INDEX ", "INDEX CONCURRENTLY ", 1))
    if (took := time.monotonic() - began) > 1:
        log.info("ledger.index name=%s seconds=%.1f", index.name, took)


def _drop(ledger: Ledger, name: str) -> None:
    table = REPLACED[name]
    if name.startswith("pk_"):  # a constraint, which goes at once however large its index is
        ledger.alter(lambda it: it.exec_driver_sql(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}"))
    elif _is_soon_done(ledger, table):
        ledger.alter(lambda connection: connection.exec_driver_sql(f"DROP INDEX IF EXISTS {name}"))
    else:
        ledger.run_alone(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")


def _is_soon_done(ledger: Ledger, table: str) -> bool:
    """Whether an index of the table is made or dropped in a transaction, as SQLite does however long it takes."""
    return ledger.dialect == "sqlite" or ledger.read(_bytes_of(table)) <= SMALL


def _make_within(connection: sa.Connection, index: sa.Index) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"DROP INDEX IF EXISTS {index.name}")
    connection.execute(CreateIndex(index, if_not_exists=True))


def _bytes_of(table: str) -> Callable[[sa.Connection], int]:
    size = sa.select(sa.func.pg_relation_size(sa.func.to_regclass(table)))
    return lambda connection: int(connection.execute(size).scalar_one())
