"""Ledgers of many runs for the benchmarks, filled fast, and kept where they are wanted again.

The rows are those of `tests/support/listed.py`, and the words of all runs as the clock indexes them. They are written
in one transaction that nothing has to survive, before the indexes are made. A body has some 30 bytes; what a body takes
is read and written once whatever the size of the ledger.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, DropIndex

from receiver.ledger import Ledger, planner, words
from receiver.ledger.migrate import HEAD, ensure_schema
from receiver.ledger.schema import attempts, deliveries, events, run_texts, runs, submissions, to_index
from tests.servers.postgres import PostgresProcess
from tests.support.ledger import with_tables
from tests.support.listed import fill_within

# As in production, with 256 MB of buffers.
SETTINGS: Final = {"shared_buffers": "256MB", "autovacuum": "on"}
_FILLING: Final = {
    "shared_buffers": "1GB",
    "maintenance_work_mem": "512MB",
    "max_wal_size": "8GB",
    "fsync": "off",
    "wal_level": "minimal",  # what is written to a table that was emptied in the same transaction is then not logged
    "max_wal_senders": "0",
}
# MB that SQLite keeps in memory while it fills.
_CACHE: Final = 1000
_TABLES: Final = (runs, events, deliveries, attempts, submissions, run_texts, to_index)

_TEXTS: Final = """
INSERT INTO run_texts (seq, source, run_id, changed_at, document)
SELECT CAST(substr(run_id, 5) AS BIGINT), source, run_id, updated_at,
       ' ' || lower(title) || ' ' || CASE WHEN failure_reason IS NULL THEN '' ELSE '
 ' || lower(failure_reason) || ' ' END
FROM runs
"""


@contextlib.contextmanager
def large_ledger(
    database: str, folder: Path, count: int, settings: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[Ledger, PostgresProcess | None]]:
    """A ledger of `count` runs in a folder, where it is left; filled unless the folder has it. Its server, if any.

    `settings`: of PostgreSQL, which is else as in production. Raises ValueError when another release has filled it, or
    nobody to its end.
    """
    folder.mkdir(mode=0o755, exist_ok=True, parents=True)
    done = folder / "filled"
    if done.exists() and (found := done.read_text()) != f"{HEAD} {count}":
        raise ValueError(f"{folder} holds revision and rows {found}, not {HEAD} {count}: remove it, or name another")
    if not done.exists():
        if any(folder.iterdir()):  # somebody fills it now, or was interrupted
            raise ValueError(f"{folder} holds a ledger that is not filled to its end: wait, or remove it")
        began = time.monotonic()
        with _opened(database, folder, _FILLING) as (ledger, _):
            fill(with_tables(ledger), count)
        done.write_text(f"{HEAD} {count}")
        print(f"{database}: filled with {count:,} in {time.monotonic() - began:.0f} s", flush=True)
    with _opened(database, folder, {**SETTINGS, **settings}) as (ledger, server):
        ensure_schema(ledger)
        yield ledger, server


@contextlib.contextmanager
def _opened(
    database: str, folder: Path, settings: Mapping[str, str]
) -> Iterator[tuple[Ledger, PostgresProcess | None]]:
    with contextlib.ExitStack() as stack:
        server, url = None, f"sqlite:///{folder / 'ledger.db'}"
        if database == "postgresql":
            server = PostgresProcess(folder / "postgres", **settings).start()
            stack.callback(server.stop)
            url = server.url()
        ledger = Ledger(url)
        stack.callback(ledger.close)
        yield ledger, server


def fill(ledger: Ledger, count: int) -> None:
    """Fill an empty ledger with `count` runs, and let the database learn what is in it."""
    if ledger.dialect == "postgresql":
        ledger.alter(lambda connection: _fill(connection, count))
    ledger.close()
    engine = sa.create_engine(ledger.url)
    if ledger.dialect == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in ("VACUUM ANALYZE", "CHECKPOINT"):
                connection.exec_driver_sql(statement)
        engine.dispose()
        return
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.isolation_level = None  # it begins nothing by itself
        for setting in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE * 1000}", "threads=2"):
            driver.execute(f"PRAGMA {setting}").fetchall()
        driver.execute("BEGIN")
        _fill(connection, count)
        driver.execute("COMMIT")
    engine.dispose()
    planner.learn(ledger, 0)  # as the clock does it
    ledger.close()


def _fill(connection: sa.Connection, count: int) -> None:
    indexes = [each for table in _TABLES for each in table.indexes]
    for index in indexes:
        connection.execute(DropIndex(index))
    on_postgresql = connection.dialect.name == "postgresql"
    connection.exec_driver_sql("ALTER TABLE run_texts DROP COLUMN words" if on_postgresql else "DROP TABLE words")
    if on_postgresql:
        connection.exec_driver_sql("ALTER TABLE deliveries DROP CONSTRAINT pk_deliveries")
        connection.exec_driver_sql(f"TRUNCATE {', '.join(table.name for table in _TABLES)}")
        fill_within(connection, count, hashed=True)
        connection.exec_driver_sql("ALTER TABLE deliveries ADD CONSTRAINT pk_deliveries PRIMARY KEY (id)")
    else:
        fill_within(connection, count, hashed=True)
    connection.exec_driver_sql(_TEXTS)
    words.create_index(connection)
    # The numbers of changes go on behind those of the runs.
    if on_postgresql:
        connection.exec_driver_sql(f"SELECT setval('to_index_seq_seq', {count})")
    else:
        connection.exec_driver_sql(f"INSERT INTO sqlite_sequence (name, seq) VALUES ('to_index', {count})")
    for index in indexes:
        connection.execute(CreateIndex(index))
