"""What workers, clocks and receivers do again and again, with a short backlog and with a long one, on both databases.

    python bench/backlog.py [--count 1000000] [--lanes 10000] [--database sqlite|postgresql]

A ledger is filled in SQL with so many deliveries that are queued, held, waiting, dead, behind an open breaker and in
many lanes: with a thousand of each, which is more than any step takes, then with `--count`. Each operation is then run
five times and rolled back; the median is shown. `effort`: rows and pages that PostgreSQL reads, hundreds of
instructions of SQLite.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.servers import new_folder, new_postgres  # noqa: E402
from receiver.ledger import Connection, Ledger  # noqa: E402
from receiver.ledger.deliveries import claims  # noqa: E402
from receiver.ledger.deliveries.fair_queue import Rotation  # noqa: E402
from tests.support import backlog  # noqa: E402
from tests.support.backlog import CALLBACK, NOW, OPERATIONS, effort, fill, seconds, shut_lanes  # noqa: E402
from tests.support.ledger import with_tables  # noqa: E402

FEW = 1000  # so that each claim and each page finds as many as it asks for


@contextmanager
def ledger(database: str, folder: Path) -> Iterator[Ledger]:
    """A new ledger. PostgreSQL is as in production, but for fsync, and with 256 MB of buffers."""
    if database == "sqlite":
        it = with_tables(Ledger(f"sqlite:///{folder / 'ledger.db'}"))
        yield it
        it.close()
        return
    with new_postgres(folder, shared_buffers="256MB") as server:
        it = with_tables(Ledger(server.url(server.create_database())))
        yield it
        it.close()


def claim(connection: Connection) -> object:
    """A claim of a sink with many lanes."""
    return claims.claim(connection, CALLBACK, 16, "w", 1, NOW, 15, concurrency=16, lane_limit=4, rotation=Rotation())


def has_due(connection: Connection) -> object:
    """The question whether one of many lanes has something due."""
    return claims.has_due(connection, CALLBACK, NOW, Rotation())


def measured(it: Ledger, operations: dict[str, Callable[[Connection], Any]]) -> dict[str, tuple[float, int]]:
    """Milliseconds and effort of each."""
    return {name: (seconds(it, work) * 1000, effort(it, work)) for name, work in operations.items()}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--count", type=int, default=1_000_000)
    arguments.add_argument("--lanes", type=int, default=10_000)
    arguments.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    options = arguments.parse_args()
    lanes = {"claim of many lanes, all closed": claim, "is something due in many lanes, all closed": has_due}
    shut = {"claim of many lanes, all shut": claim, "is something due in many lanes, all shut": has_due}
    for database in options.database or ("sqlite", "postgresql"):
        rows: dict[str, list[tuple[float, int]]] = {}
        with new_folder() as folder:
            with ledger(database, folder) as it:
                for count in (FEW, options.count):
                    began = time.monotonic()
                    backlog.make(it, count)
                    backlog.analyze(it)
                    print(f"{database}: filled with {count:,} of each in {time.monotonic() - began:.0f} s", flush=True)
                    for what, found in measured(it, OPERATIONS).items():
                        rows.setdefault(what, []).append(found)
            (folder / "many").mkdir(mode=0o755)
            with ledger(database, folder / "many") as it:
                for count in (FEW, options.count):
                    fill(it, count, CALLBACK, lanes=min(count, options.lanes), events=min(count, 1000))
                    backlog.analyze(it)
                    for what, found in measured(it, lanes).items():
                        rows.setdefault(what, []).append(found)
                for count in (min(FEW, options.lanes), options.lanes):
                    shut_lanes(it, count, until=NOW + 1000)
                    for what, found in measured(it, shut).items():
                        rows.setdefault(what, []).append(found)
        print(f"\n{database:60} {FEW:>10,} {options.count:>12,}   effort")
        for what, ((few, few_effort), (many, many_effort)) in rows.items():
            print(f"{what:60} {few:>7.2f} ms {many:>9.2f} ms   {few_effort} → {many_effort}")


if __name__ == "__main__":
    main()
