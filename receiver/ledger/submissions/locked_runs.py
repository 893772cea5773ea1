"""The lock on the runs of submissions, the same that recording takes: whoever comes second sees what the first did."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

import sqlalchemy as sa

from receiver.ledger import bulk
from receiver.ledger.schema import runs


class LockedRun(NamedTuple):
    """A run whose row is locked, as it was then."""

    run_id: str
    final: bool
    events: int
    submission_id: str

    @property
    def late(self) -> bool:
        """Whether events of it were recorded as those of a run that nobody has submitted."""
        return self.events > 0 and not self.submission_id


def lock_runs(connection: sa.Connection, source: str, run_ids: Collection[str], now: float) -> dict[str, LockedRun]:
    """Lock these runs until the transaction ends. Those that the ledger does not know get a row, so that a recording
    of their first event, which looks whether they have a submission before this one is committed, has to wait."""
    times = {"first_seen_at": now, "updated_at": now}
    rows = [{"source": source, "run_id": run_id, **times} for run_id in sorted(run_ids)]
    return {row.run_id: LockedRun(*row) for row in _lock(connection, rows)}


_lock: Final = bulk.Insert(
    runs,
    lambda insert: insert.on_conflict_do_update(  # with what is there, which may be later than `now`
        index_elements=[runs.c.source, runs.c.run_id], set_={"updated_at": runs.c.updated_at}
    ),
    [runs.c.run_id, runs.c.final, runs.c.events, runs.c.submission_id],
)
