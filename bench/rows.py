"""Notice rows of a PostgreSQL table as they are committed, without a trigger.

A trigger with NOTIFY takes a lock that is held until the commit is on disk, so commits of several writers follow one
another instead of sharing a flush. Therefore the table gets a column that counts up, and a connection of this process
reads the rows behind the last one again and again. A row counts from when another session can see it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Final, Self

import psycopg

from bench.load import PATIENCE

# A transaction with a smaller number may commit later: so far back a gap is still looked at.
GAP: Final = 1000
COLUMN: Final = """
ALTER TABLE results ADD COLUMN seen bigserial;
CREATE INDEX results_seen ON results (seen)
"""


class Rows:
    """Looks at a table `results` every `every` seconds in a thread. `at`: when each row was seen, by its run's id."""

    def __init__(self, url: str, every: float) -> None:
        self.at: dict[str, float] = {}
        self.every = every
        self._connection = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
        self._stop, self._changed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + PATIENCE
        while True:  # a sink makes its table with the first row
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
        below, beyond = 0, set[int]()  # all numbers up to `below` were seen, and those in `beyond`
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
        """Wait until each run in `due` has its row. Returns the seconds that each took, by run id.

        Raises SystemExit when no further row comes for PATIENCE seconds.
        """
        while missing := [run_id for run_id in due if run_id not in self.at]:
            self._changed.clear()
            if not self._changed.wait(PATIENCE) and not all(run_id in self.at for run_id in missing):
                raise SystemExit(f"{len(missing)} of {len(due)} rows are missing after {PATIENCE:.0f} s")
            time.sleep(0.02)
        return {run_id: self.at[run_id] - when for run_id, when in due.items()}
