"""Measure the rows per second of the database sink, in batches of 256 rows of 2 kB, with every commit on disk.

    python bench/database_sink.py [--rows 51200]

On a PostgreSQL of its own (fsync on) and on SQLite; first new runs, then a newer event of each.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.servers import new_folder, new_postgres  # noqa: E402
from handlers import Delivery, Receipt  # noqa: E402
from handlers.database import DatabaseOptions, DatabaseSink  # noqa: E402
from handlers.testing.conformance import NoServices, make_delivery, sample_run  # noqa: E402


def deliveries(rows: int, modified_at: str) -> list[Delivery]:
    """Return one delivery for each run, with a body of about 2 kB."""
    output = {"lines": [{"item": f"item {number}", "price": number * 1.25} for number in range(32)]}
    return [
        make_delivery(sample_run(f"tsk_{number:09d}", modified_at=modified_at, output=output)) for number in range(rows)
    ]


def measure(name: str, url: str, rows: Sequence[tuple[str, Sequence[Delivery]]]) -> None:
    sink = DatabaseSink("bench", DatabaseOptions.model_validate({"url": url}), NoServices())
    sink.send_many(rows[0][1][:1])
    for what, batch in rows:
        started, used = time.perf_counter(), time.process_time()
        for start in range(0, len(batch), sink.batch_size):
            answers = sink.send_many(batch[start : start + sink.batch_size])
            assert all(isinstance(answer, Receipt) and not answer.note for answer in answers)
        took, used = time.perf_counter() - started, time.process_time() - used
        each = used / len(batch) * 1e6
        print(f"{name:<12} {what:<12} {len(batch) / took:>8,.0f} rows/s  {each:>5.0f} µs of this process a row")
    sink.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=51_200)
    rows = parser.parse_args().rows
    parts = [
        ("new runs", deliveries(rows, "2026-03-01T10:00:00")),
        ("newer events", deliveries(rows, "2026-03-01T10:01:00")),
    ]
    print(f"{rows:,} bodies of {len(parts[0][1][0].body):,} bytes")
    with new_folder() as folder:
        measure("SQLite", f"sqlite:///{folder}/results.db", parts)
        with new_postgres(folder, autovacuum="on") as server:
            measure("PostgreSQL", server.url(), parts)


if __name__ == "__main__":
    main()
