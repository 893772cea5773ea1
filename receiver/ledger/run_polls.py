"""Schedule polls of runs that no submission polls: ends seen in a list or a GET, too large results, and webhooks with
less data than the API's response.

A poll is leased, so that only one of several clocks sends it; the lease of a killed clock expires. A run may have a row
here before its first event; no list shows that row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import sqlalchemy as sa

from receiver.ledger import dialect, many_rows
from receiver.ledger.runs import update_run
from receiver.ledger.schema import runs, submissions
from receiver.ledger.submissions.polls import LEASE, count_due_of, lease_due_of
from receiver.ledger.submissions.records import change

# Seconds by which an existing poll may be later than requested: it may be the lease of a running poll. Longer than a
# lease, even one that began later.
SOON = 2 * LEASE
# Marks runs found by a walk of Skyvern's list: their event has `via: import`.
IMPORT = "import"


@dataclass(frozen=True, slots=True)
class DueRun:
    """A run to poll. `final`, `status`: from its newest event, if any. `noted_at`: when its end was first seen.

    `first_seen_at`: when Runhook first saw the run. `found_by`: see IMPORT.
    """

    source: str
    run_id: str
    run_type: str
    submission_id: str
    status: str
    final: bool
    events: int
    noted_at: float | None
    polls: int
    found_by: str
    first_seen_at: float


def count_due(connection: sa.Connection, now: float, sources: Collection[str], limit: int) -> dict[str, int]:
    """Count the due runs by source, up to `limit` for each, so that one source cannot hide another."""
    return count_due_of(connection, runs, now, sources, limit)


def lease_due(connection: sa.Connection, source: str, now: float, limit: int) -> list[DueRun]:
    """Lease and return up to `limit` due runs, the longest waiting first."""
    rows = lease_due_of(connection, runs, source, now, limit)
    return [DueRun(*(getattr(row, each.name) for each in fields(DueRun))) for row in rows]


def note_end(connection: sa.Connection, source: str, run_id: str, now: float) -> float:
    """Record that Skyvern's API shows the end of a run. Returns when that was first: the earliest time is kept."""
    insert = many_rows.insert_statement(connection, runs).values(
        source=source, run_id=run_id, noted_at=now, first_seen_at=now, updated_at=now
    )
    new = insert.excluded.noted_at
    noted = many_rows.or_update(insert, {"noted_at": sa.case((runs.c.noted_at < new, runs.c.noted_at), else_=new)})
    return float(connection.execute(noted.returning(runs.c.noted_at)).scalar_one())


def postpone(connection: sa.Connection, source: str, run_id: str, due_at: float) -> None:
    """Poll the run again at `due_at`, unless its polling has stopped, or an earlier try did this."""
    update_run(connection, source, run_id, runs.c.due_at != due_at, due_at=due_at, polls=runs.c.polls + 1)


def clear_note(connection: sa.Connection, source: str, run_id: str) -> None:
    """Forget the end that was seen, because the run continues."""
    update_run(connection, source, run_id, runs.c.final.is_(False), runs.c.noted_at.is_not(None), noted_at=None)


def stop(connection: sa.Connection, source: str, run_id: str) -> None:
    """Stop polling the run. Deletes a run without events and submission."""
    update_run(connection, source, run_id, due_at=None)
    unknown = sa.and_(runs.c.events == 0, runs.c.submission_id == "")
    connection.execute(sa.delete(runs).where(runs.c.source == source, runs.c.run_id == run_id, unknown))


def ask(
    connection: sa.Connection,
    source: str,
    due_times: Mapping[str, float],
    now: float,
    *,
    found_by: str = "",
    grace: float | None = None,
    soon: float = SOON,
) -> int:
    """Schedule polls of runs without a final event, each at its time, unless a poll is already due about as soon.

    `due_times`: times by run id. `grace`: seconds between the seen ends and these times, if the ends were seen. `soon`:
    seconds by which an existing poll may be later. A run with a submission is polled through it. Returns the number of
    scheduled runs. Locks rows in the order of recordings: runs, sorted; then submissions, sorted.
    """
    if not due_times:
        return 0
    ids = sorted(due_times)
    it = submissions.c
    # They are not locked: if polling ends at this moment, the run was polled just before.
    polled = connection.execute(
        sa.select(it.id, it.run_id, it.due_at)
        .where(it.source == source, dialect.among(it.run_id, ids), it.due_at.is_not(None))
        .order_by(it.id)
    ).all()
    owned = {row.run_id for row in polled}
    rows = [
        {
            "source": source,
            "run_id": run_id,
            "due_at": due_times[run_id],
            "noted_at": None if grace is None else min(due_times[run_id] - grace, now),
            "found_by": found_by,
            "first_seen_at": now,
            "updated_at": now,
        }
        for run_id in ids
        if run_id not in owned
    ]
    made = many_rows.insert_many(connection, runs, rows, partial(_put, soon=soon), (runs.c.run_id,))
    for row in polled:
        due_at = due_times[row.run_id]
        if row.due_at > due_at + soon:  # else soon enough; checked again, since a poll may have begun
            change(connection, row.id, it.due_at > due_at + soon, due_at=due_at, updated_at=now)
    return len(made) + len(owned)


def _put(insert: Any, soon: float) -> Any:
    there, new = runs.c.due_at, insert.excluded
    changes = {
        "due_at": sa.case((there.is_(None), new.due_at), (there > new.due_at + soon, new.due_at), else_=there),
        "noted_at": sa.func.coalesce(runs.c.noted_at, new.noted_at),
        "found_by": sa.case((new.found_by != "", new.found_by), else_=runs.c.found_by),
    }
    return many_rows.or_update(insert, changes, runs.c.final.is_(False))
