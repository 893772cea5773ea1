"""Ledgers of many runs for the benchmarks, filled fast.

The rows are those of `tests/support/listed.py`. They are written in one unlogged transaction, before the indexes are
created. A body has about 30 bytes, since the cost of a body does not depend on the size of the ledger.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, DropIndex

from bench.words import documents
from receiver.ledger import Ledger
from receiver.ledger.database import dialect
from receiver.ledger.lists import words
from receiver.ledger.schema import attempts, deliveries, events, run_texts, runs, submissions, to_index
from tests.servers.postgres import PostgresProcess
from tests.support.ledger import with_tables
from tests.support.listed import fill_within, source_of

# As in production, with 256 MB of buffers.
SETTINGS: Final[dict[str, Any]] = {"shared_buffers": "256MB", "autovacuum": "on"}
_FILLING: Final[dict[str, Any]] = {
    "shared_buffers": "1GB",
    "maintenance_work_mem": "512MB",
    "max_wal_size": "8GB",
    "fsync": "off",
    "wal_level": "minimal",  # PostgreSQL then skips the WAL for tables truncated in the same transaction
    "max_wal_senders": "0",
}
# SQLite's cache in MB while filling.
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
    database: str, folder: Path, count: int, *, with_words: bool = False
) -> Iterator[tuple[Ledger, PostgresProcess | None]]:
    """Fill a ledger with `count` runs in a new folder. Yields it with its server, if any.

    `with_words`: long documents, instead of the ones that the clock would index.
    """
    folder.mkdir(mode=0o755)
    began = time.monotonic()
    with _opened(database, folder, _FILLING) as (ledger, _):
        fill(with_tables(ledger), count, documents(count) if with_words else None)
    print(f"  {database}: filled with {count:,} runs in {time.monotonic() - began:.0f} s", flush=True)
    with _opened(database, folder, SETTINGS) as (ledger, server):
        yield ledger, server


@contextlib.contextmanager
def _opened(
    database: str, folder: Path, settings: Mapping[str, Any]
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


def fill(ledger: Ledger, count: int, texts: Iterable[str] | None = None) -> None:
    """Fill an empty ledger with `count` runs, and let the database collect its statistics.

    `texts`: the runs' documents; default: what the clock would index.
    """
    if ledger.dialect == "postgresql":
        ledger.alter(lambda connection: _fill(connection, count, texts))
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
        driver.isolation_level = None  # pysqlite must not begin transactions itself
        for setting in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE * 1000}", "threads=2"):
            driver.execute(f"PRAGMA {setting}").fetchall()
        driver.execute("BEGIN")
        _fill(connection, count, texts)
        driver.execute("COMMIT")
    engine.dispose()
    ledger.alter(dialect.update_planner_statistics)  # same as the clock
    ledger.close()


def _write(connection: sa.Connection, texts: Iterable[str]) -> None:
    columns, driver = "seq, source, run_id, changed_at, document", connection.connection.driver_connection
    assert driver is not None
    rows = ((number, source_of(number), f"tsk_{number}", float(number), text) for number, text in enumerate(texts, 1))
    if connection.dialect.name == "sqlite":
        driver.executemany(f"INSERT INTO run_texts ({columns}) VALUES (?, ?, ?, ?, ?)", rows)
        return
    with driver.cursor().copy(f"COPY run_texts ({columns}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _fill(connection: sa.Connection, count: int, texts: Iterable[str] | None) -> None:
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
    if texts is None:
        connection.exec_driver_sql(_TEXTS)
    else:
        _write(connection, texts)
    words.create_index(connection)
    # Continue the sequence of changes after the runs' numbers.
    if on_postgresql:
        connection.exec_driver_sql(f"SELECT setval('to_index_seq_seq', {count})")
    else:
        connection.exec_driver_sql(f"INSERT INTO sqlite_sequence (name, seq) VALUES ('to_index', {count})")
    for index in indexes:
        connection.execute(CreateIndex(index))
