"""Detect committed rows of a PostgreSQL table, without a trigger.

A trigger with NOTIFY takes a lock that is held until the commit is on disk, so commits of several writers follow one
another instead of sharing a flush. Instead, the table gets a serial column, and a connection polls for rows after the
last one. A row counts from when another session can see it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Final, Self

import psycopg

from bench.load import PATIENCE

# How far back gaps are checked: a transaction with a smaller number may commit later.
GAP: Final = 1000
COLUMN: Final = """
ALTER TABLE results ADD COLUMN seen bigserial;
CREATE INDEX results_seen ON results (seen)
"""


class Rows:
    """Polls a table `results` every `every` seconds in a thread. `at`: when each row was seen, by its run's id."""

    def __init__(self, url: str, every: float) -> None:
        self.at: dict[str, float] = {}
        self.every = every
        self._connection = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
        self._stop, self._changed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + PATIENCE
        while True:  # a sink creates its table with the first row
            try:
                self._connection.execute(COLUMN)
                break
            except psycopg.errors.UndefinedTable:
                if time.monotonic() > deadline:
                    raise SystemExit("no row was written") from None
                time.sleep(0.1)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._connection.close()

    def _look(self) -> None:
        below, beyond = 0, set[int]()  # seen numbers: all up to `below`, and the set `beyond`
        query = "SELECT seen, run_id FROM results WHERE seen > %s"
        while not self._stop.is_set():
            rows = self._connection.execute(query, (below,)).fetchall()
            now = time.monotonic()
            for seen, run_id in rows:
                if seen not in beyond:
                    beyond.add(seen)
                    self.at.setdefault(run_id, now)
                    self._changed.set()
            while below + 1 in beyond or (beyond and below < max(beyond) - GAP):
                below += 1
                beyond.discard(below)
            self._stop.wait(self.every)

    def wait_for(self, due: Mapping[str, float]) -> dict[str, float]:
        """Wait until each run in `due` has its row.

        Returns latencies in seconds, by run id. Raises SystemExit after PATIENCE seconds without a new row.
        """
        while missing := [run_id for run_id in due if run_id not in self.at]:
            self._changed.clear()
            if not self._changed.wait(PATIENCE) and not all(run_id in self.at for run_id in missing):
                raise SystemExit(f"{len(missing)} of {len(due)} rows are missing after {PATIENCE:.0f} s")
            time.sleep(0.02)
        return {run_id: self.at[run_id] - when for run_id, when in due.items()}
