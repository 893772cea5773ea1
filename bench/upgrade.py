"""How long the upgrade of a large ledger takes, and how long a writer waits meanwhile, on both databases.

    python bench/upgrade.py [--count 1000000] [--database sqlite|postgresql]

A ledger of revision 0003 is filled in SQL with so many events, deliveries, attempts and runs, and upgraded to today's
tables, while another process's transactions write a delivery every 20 ms. Shown: seconds of the upgrade, and the
longest of those writes.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from alembic import command  # noqa: E402
from alembic.config import Config  # noqa: E402

from bench.servers import new_folder, new_postgres  # noqa: E402
from receiver.ledger import Connection, Ledger, LedgerUnavailable, migrate  # noqa: E402

# Of revision 0003: its indexes are made by today's program, but for this one.
_INDEX = "CREATE INDEX ix_deliveries_queued_lane ON deliveries (sink, lane, due_at) WHERE state = 'queued'"
_ROWS = """
INSERT INTO events (id, source, run_id, via, run_type, status, outcome, attempt, retry_pending, final, fingerprint,
                    output_null, disposition, unrouted, problem, submission_id, received_at, recorded_at, body)
SELECT 'evt_' || n, 'skyvern', 'tsk_' || n, 'webhook', 'task_v1', 'completed', 'completed', 1, false, true,
       'fp' || n, false, 'news', false, '', '', 1, n * 0.001, {body} FROM {numbers};
INSERT INTO deliveries (id, event_id, sink, lane, route, source, run_id, after, state, attempts, due_at, created_at,
                        updated_at)
SELECT 'dlv_' || n, 'evt_' || n, 'ops', 'ops', 'r', 'skyvern', 'tsk_' || n, '[]', CASE n % 10 WHEN 0 THEN 'queued'
       WHEN 1 THEN 'waiting' WHEN 2 THEN 'dead' WHEN 3 THEN 'held' ELSE 'delivered' END, 1, n, 1, 1 FROM {numbers};
INSERT INTO attempts (delivery_id, number, outcome, reason, started_at, ended_at, worker)
SELECT 'dlv_' || n, 1, 'accepted', '', 1, 1, 'w' FROM {numbers};
INSERT INTO runs (source, run_id, first_seen_at, updated_at, final)
SELECT 'skyvern', 'tsk_' || n, 1, 1, true FROM {numbers}"""


@contextmanager
def new_ledger(database: str, folder: Path) -> Iterator[Ledger]:
    """An empty database, on disk."""
    if database == "sqlite":
        it = Ledger(f"sqlite:///{folder / 'ledger.db'}")
        yield it
        it.close()
        return
    with new_postgres(folder, max_wal_size="4GB") as server:
        it = Ledger(server.url(server.create_database()))
        yield it
        it.close()


def fill(connection: Connection, count: int) -> None:
    """Make the tables of revision 0003, and their rows."""
    config = Config()
    config.set_main_option("script_location", str(ROOT / "receiver" / "ledger" / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "0003")
    connection.exec_driver_sql(_INDEX)
    postgresql = connection.dialect.name == "postgresql"
    recursion = f"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {count}) SELECT n FROM c"
    numbers = f"generate_series(1, {count}) AS numbers(n)" if postgresql else f"({recursion}) AS numbers"
    body = "convert_to(repeat('x', 400), 'UTF8')" if postgresql else "zeroblob(400)"
    cursor: Any = connection.connection.cursor()  # the driver's own, to which a % is nothing but that
    for statement in _ROWS.split(";"):
        cursor.execute(statement.format(numbers=numbers, body=body))
    cursor.close()


def measure(database: str, count: int, folder: Path) -> None:
    """Fill, upgrade, and print what it took."""
    with new_ledger(database, folder) as ledger:
        ledger.alter(lambda connection: fill(connection, count))
        ledger.alter(lambda connection: connection.exec_driver_sql("ANALYZE"))
        waits, refused, stop = [0.0], 0, threading.Event()

        def write() -> None:
            nonlocal refused
            other = Ledger(ledger.url.render_as_string(hide_password=False))
            while not stop.wait(0.02):
                began, key = time.monotonic(), f"dlv_{len(waits)}"
                change = f"UPDATE deliveries SET updated_at = 2 WHERE id = '{key}'"
                try:
                    other.write(lambda connection: connection.exec_driver_sql(change))  # noqa: B023
                except LedgerUnavailable:
                    refused += 1
                waits.append(time.monotonic() - began)
            other.close()

        writer = threading.Thread(target=write)
        writer.start()
        began = time.monotonic()
        migrate.ensure_schema(ledger)
        took = time.monotonic() - began
        stop.set()
        writer.join()
        longest = f"longest write {max(waits):.2f} s, {refused} of {len(waits) - 1} refused"
        print(f"{database:10}  {count} deliveries  upgrade {took:6.1f} s   {longest}", flush=True)


def main() -> None:
    """Measure what the options name."""
    arguments = argparse.ArgumentParser(prog="bench.upgrade", description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--count", type=int, default=1_000_000)
    arguments.add_argument("--database", choices=["sqlite", "postgresql"])
    options = arguments.parse_args()
    for database in [options.database] if options.database else ["postgresql", "sqlite"]:
        with new_folder() as folder:
            measure(database, options.count, folder)


if __name__ == "__main__":
    main()
