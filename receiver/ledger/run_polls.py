"""Runs of which Skyvern is asked by their id, for no submission does it: ends that a list or a GET has shown, results
that were too large, webhooks that lack what an answer has.

A poll is leased, so that of several clocks one makes it; the lease of a clock that was killed runs out. A run may have
a row here before any event of it: that row has no event yet, and no list shows it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from receiver.domain.run import RunKey
from receiver.ledger import dialect
from receiver.ledger.runs import update_run
from receiver.ledger.schema import runs, submissions
from receiver.ledger.submissions.polls import LEASE
from receiver.ledger.submissions.records import change

# Seconds within which a poll is soon enough. A lease is shorter, though its clock was read later.
SOON = 2 * LEASE
# How a walk of Skyvern's list marks what it found: the event of such a run has `via: import`.
IMPORT = "import"


@dataclass(frozen=True, slots=True)
class DueRun:
    """A run that Skyvern is asked for. `final`, `status`: as its newest event says, if there is one. `noted_at`: when
    its end was first seen. `first_seen_at`: when we first heard of it. `found_by`: see IMPORT."""

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
    """Count the runs of each of these sources that are due, at most `limit` of each: what waits for one source hides
    nothing of another."""
    return dialect.count_of_each(connection, runs.c.source, runs.c.due_at <= now, sources, limit)


def lease_due(connection: sa.Connection, source: str, now: float, limit: int) -> list[DueRun]:
    """Lease and return up to `limit` runs that are due, the one that waits longest first."""
    rows = dialect.lease_due(connection, runs, source, now, LEASE, limit)
    return [DueRun(*(getattr(row, each.name) for each in fields(DueRun))) for row in rows]


def note_end(connection: sa.Connection, source: str, run_id: str, now: float) -> float:
    """Note that Skyvern's API shows the end of a run. Returns when that was noted first."""
    insert = dialect.insert_statement(connection, runs).values(
        source=source, run_id=run_id, noted_at=now, first_seen_at=now, updated_at=now
    )
    noted = dialect.or_update(insert, {"noted_at": sa.func.coalesce(runs.c.noted_at, insert.excluded.noted_at)})
    return float(connection.execute(noted.returning(runs.c.noted_at)).scalar_one())


def ask_for_more(connection: sa.Connection, wanted: Mapping[RunKey, float]) -> None:
    """Ask for runs whose end is known, each at its time, for what their events lack or what becomes of them."""
    for due_at in sorted(set(wanted.values())):
        those = dialect.of_runs(runs, (key for key, time in wanted.items() if time == due_at))
        connection.execute(sa.update(runs).where(those, runs.c.due_at.is_(None)).values(due_at=due_at))


def postpone(connection: sa.Connection, source: str, run_id: str, due_at: float) -> None:
    """Ask for the run again at `due_at`, unless it is asked for no more."""
    asked = runs.c.due_at.is_not(None)
    update_run(connection, source, run_id, asked, due_at=due_at, polls=runs.c.polls + 1)


def clear_note(connection: sa.Connection, source: str, run_id: str) -> None:
    """Forget that an end of the run was seen: it goes on after all."""
    update_run(connection, source, run_id, runs.c.final.is_(False), runs.c.noted_at.is_not(None), noted_at=None)


def stop(connection: sa.Connection, source: str, run_id: str) -> None:
    """Ask for the run no more. One that no event is known of is forgotten."""
    update_run(connection, source, run_id, due_at=None)
    unknown = sa.and_(runs.c.events == 0, runs.c.submission_id == "")
    connection.execute(sa.delete(runs).where(runs.c.source == source, runs.c.run_id == run_id, unknown))


def ask(
    connection: sa.Connection,
    source: str,
    wanted: Mapping[str, float],
    now: float,
    *,
    found_by: str = "",
    grace: float | None = None,
) -> int:
    """Ask for runs whose end no event has brought, each at its time, or when it is asked for if that is about as soon.

    `wanted`: by run id. `grace`: seconds; given when their ends have been seen, which were so long before those times.
    A submission whose run is among them is polled then. Returns how many of the runs are asked for. Its locks are taken
    as those of a recording are: runs first, sorted; then submissions, sorted.
    """
    if not wanted:
        return 0
    ids = sorted(wanted)
    it = submissions.c
    # They are not locked: one whose polling ends in this moment was asked for just before.
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
            "due_at": wanted[run_id],
            "noted_at": None if grace is None else min(wanted[run_id] - grace, now),
            "found_by": found_by,
            "first_seen_at": now,
            "updated_at": now,
        }
        for run_id in ids
        if run_id not in owned
    ]
    made = dialect.insert_many(connection, runs, rows, _put, (runs.c.run_id,))
    for row in polled:
        due_at = wanted[row.run_id]
        if row.due_at > due_at + SOON:  # else it is soon enough; asked again, for a poll may have begun meanwhile
            change(connection, row.id, it.due_at > due_at + SOON, due_at=due_at, updated_at=now)
    return len(made) + len(owned)


def _earlier(there: sa.ColumnElement[float | None], new: sa.ColumnElement[float]) -> sa.ColumnElement[float]:
    """Return the earlier of two times, but `there` where that may be the lease of a poll that is under way."""
    return sa.case((there.is_(None), new), (there > new + SOON, new), else_=there)


def _put(insert: Any) -> Any:
    new = insert.excluded
    changes = {
        "due_at": _earlier(runs.c.due_at, new.due_at),
        "noted_at": sa.func.coalesce(runs.c.noted_at, new.noted_at),
        "found_by": sa.case((new.found_by != "", new.found_by), else_=runs.c.found_by),
    }
    return dialect.or_update(insert, changes, runs.c.final.is_(False))
