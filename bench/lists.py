"""What a page of each list costs, with each filter, among few events and among many, on both databases.

    python bench/lists.py [--count 1000000] [--few 10000] [--database sqlite|postgresql] [--times 15]

A ledger is filled in SQL with `--few` runs, each with an event, two deliveries and their attempts, and every tenth with
a submission; then up to `--count`. For each list and filter the first page is read `--times` times, and the page behind
50,000 rows (the 1,000th), or in the middle where that comes first. Shown is the 95th percentile in milliseconds, few
against many, and their ratio; `rows` is how many the page has, and + says that there are more. `effort`: rows and pages
that PostgreSQL reads, hundreds of instructions of SQLite; other than the time it does not depend on how busy it is.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import sqlalchemy as sa  # noqa: E402

from bench.backlog import ledger  # noqa: E402
from receiver.ledger import Ledger  # noqa: E402
from receiver.ledger.filters import Filter  # noqa: E402
from receiver.ledger.lists.paging import Key, Order  # noqa: E402
from tests.support.backlog import analyze, effort  # noqa: E402
from tests.support.listed import LISTS, NOT_OF_SUBMISSIONS, fill, filters_among  # noqa: E402

LIMIT, DEEP = 50, 50_000


def measured(it: Ledger, count: int, times: int) -> dict[str, tuple[float, str, int]]:
    """Milliseconds (95th percentile) of each page, how many rows it has, and its effort."""
    found: dict[str, tuple[float, str, int]] = {}
    for name, (page, order) in LISTS.items():
        for what, wanted in filters_among(count).items():
            if name == "submissions" and what in NOT_OF_SUBMISSIONS:
                continue
            found[f"{name} by {what}"] = _timed(it, page, wanted, None, times)
        after = it.read(lambda connection, order=order: _deep(connection, order))  # type: ignore[misc]
        if name == "attempts" and after is not None:
            after = (*after, 1)
        found[f"{name}, page 1,000"] = _timed(it, page, Filter(), after, times)
    return found


def _timed(it: Ledger, page: Any, wanted: Filter, after: Key | None, times: int) -> tuple[float, str, int]:
    taken: list[float] = []
    for _ in range(times + 1):
        began = time.perf_counter()
        rows, rest = it.read(lambda connection: page(connection, wanted, after, LIMIT))
        taken.append(time.perf_counter() - began)
    taken = sorted(taken[1:])  # the first one reads from disk
    work = effort(it, lambda connection: page(connection, wanted, after, LIMIT))
    return taken[int(0.95 * (len(taken) - 1))] * 1000, f"{len(rows)}{'+' if rest else ''}", work


def _deep(connection: sa.Connection, order: Order) -> Key | None:
    rows = connection.execute(sa.select(sa.func.count()).select_from(order.columns[0].table)).scalar_one()
    query = sa.select(*order.columns).order_by(*order.terms())
    row = connection.execute(query.offset(min(DEEP, rows // 2)).limit(1)).first()
    return tuple(row) if row else None


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--count", type=int, default=1_000_000)
    arguments.add_argument("--few", type=int, default=10_000)
    arguments.add_argument("--times", type=int, default=15)
    arguments.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    options = arguments.parse_args()
    for database in options.database or ("sqlite", "postgresql"):
        with tempfile.TemporaryDirectory(prefix="runhook-bench-") as name:
            folder = Path(name)
            folder.chmod(0o755)
            with ledger(database, folder) as it:
                found = []
                for count in (options.few, options.count):
                    began = time.monotonic()
                    fill(it, count)
                    analyze(it)
                    print(f"{database}: filled up to {count:,} in {time.monotonic() - began:.0f} s", flush=True)
                    found.append(measured(it, count, options.times))
        few, many = found
        print(f"\n{database:36} {options.few:>10,} {options.count:>12,}  ratio  rows, effort")
        for what, (before, few_rows, few_effort) in few.items():
            after, rows, work = many[what]
            times = f"{before:>7.1f} ms {after:>9.1f} ms  {after / before:>5.2f}"
            print(f"{what:36} {times}  {few_rows} → {rows}, {few_effort} → {work}")
        print(f"largest ratio: {max(many[what][0] / few[what][0] for what in few):.2f}", flush=True)


if __name__ == "__main__":
    main()
