"""Schedule and lease polls of submissions whose result is missing.

A poll is leased, so that only one of several clocks sends it; the lease of a killed clock expires.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import sqlalchemy as sa

from receiver.domain import deduplication, poll_schedule
from receiver.domain.history import RunHistory
from receiver.domain.new_event import NewEvent
from receiver.domain.parsed_event import ParsedEvent
from receiver.domain.run import RunKey
from receiver.domain.submission import Submission, SubmissionState
from receiver.ledger import dialect
from receiver.ledger.schema import runs, submissions
from receiver.ledger.submissions.records import change, from_row

# Maximum seconds for one poll.
LEASE = 90.0


def count_due_of(
    connection: sa.Connection, table: sa.Table, now: float, sources: Collection[str], limit: int
) -> dict[str, int]:
    """Count the due rows of a table by source, up to `limit` for each, so that one source cannot hide another."""
    found = {}
    for source in sources:
        due = sa.select(table.c.source).where(table.c.due_at <= now, table.c.source == source).limit(limit).subquery()
        if count := connection.execute(sa.select(sa.func.count()).select_from(due)).scalar_one():
            found[source] = count
    return found


def lease_due_of(connection: sa.Connection, table: sa.Table, source: str, now: float, limit: int) -> Sequence[Any]:
    """Lease up to `limit` due rows of `source`: move `due_at` by LEASE, so that no other process takes them.

    Returns the rows, the longest waiting first; only those that an earlier try with the same `now` leased, if any."""
    its = sa.select(table).where(table.c.source == source).order_by(table.c.due_at).limit(limit)
    its = its.with_for_update(skip_locked=True)
    earlier = connection.execute(its.where(table.c.due_at == now + LEASE)).all()
    rows = earlier or connection.execute(its.where(table.c.due_at <= now)).all()
    name = "id" if "id" in table.c else "run_id"
    if rows:
        taken = dialect.among(table.c[name], [getattr(row, name) for row in rows])
        leased = sa.update(table).where(taken, table.c.source == source)
        connection.execute(leased.values(due_at=now + LEASE))
    return rows


def count_due(connection: sa.Connection, now: float, sources: Collection[str], limit: int) -> dict[str, int]:
    """Count the due submissions by source, up to `limit` for each."""
    return count_due_of(connection, submissions, now, sources, limit)


def lease_due(connection: sa.Connection, source: str, now: float, limit: int) -> list[Submission]:
    """Lease and return up to `limit` due submissions, the longest waiting first."""
    return [
        replace(from_row(row), due_at=now + LEASE) for row in lease_due_of(connection, submissions, source, now, limit)
    ]


def stop_polling(connection: sa.Connection, submission_id: str, reason: str, now: float) -> None:
    """End the polling of one submission, for `reason`."""
    polled = submissions.c.due_at.is_not(None)
    change(connection, submission_id, polled, due_at=None, reason=reason, updated_at=now)


def due_after_end(connection: sa.Connection, keys: Iterable[RunKey], due_at: float | None, now: float) -> None:
    """Set when the submissions of final runs are polled next (None: never), and clear why they waited."""
    it = submissions.c
    wanted = list(keys)
    if not wanted:
        return
    final = sa.exists().where(runs.c.source == it.source, runs.c.run_id == it.run_id, runs.c.final)
    conditions = [dialect.of_runs(submissions, wanted), final]
    if due_at is None:  # look up the runs, not all polled submissions
        conditions.append(dialect.row_by_row(it.due_at.is_not(None)))
    _update_by_id(connection, sa.select(it.id).where(*conditions), due_at=due_at, reason="", updated_at=now)


def _update_by_id(connection: sa.Connection, ids: sa.Select[Any], **values: Any) -> int:
    """Update these submissions after locking them in the order of their ids. Returns their number.

    A single UPDATE would lock them in any order, and deadlock with other processes.
    """
    found = connection.execute(ids.order_by(submissions.c.id).with_for_update(of=submissions)).scalars().all()
    if found:
        connection.execute(sa.update(submissions).where(dialect.among(submissions.c.id, found)).values(**values))
    return len(found)


def unknown(connection: sa.Connection, source: str, limit: int) -> list[Submission]:
    """Return submissions whose response was lost, the newest first, as Skyvern lists its runs."""
    it = submissions.c
    lost = sa.and_(it.source == source, it.state == SubmissionState.UNKNOWN, it.due_at.is_not(None))
    rows = connection.execute(sa.select(submissions).where(lost).order_by(it.created_at.desc()).limit(limit))
    return [from_row(row) for row in rows]


class Owner(NamedTuple):
    """The submission of a run. `created_at`: seconds since the epoch."""

    id: str
    call: str
    created_at: float


def owners(connection: sa.Connection, source: str, run_ids: Collection[str]) -> dict[str, Owner]:
    """Return the submissions of these runs by run id, without runs that have none."""
    query = sa.select(submissions.c.run_id, submissions.c.id, submissions.c.call, submissions.c.created_at).where(
        dialect.of_runs(submissions, ((source, each) for each in run_ids))
    )
    return {row.run_id: Owner(row.id, row.call, row.created_at) for row in connection.execute(query)}


def schedule_polls(
    connection: sa.Connection,
    batch: Iterable[ParsedEvent],
    before: Mapping[RunKey, RunHistory],
    new: Iterable[NewEvent],
    now: float,
) -> None:
    """End the polling of final runs, except after a first final event that is a cancel without output.

    Such a run is polled once more later: its output may come in a second webhook, which can be lost. An event from a
    poll counts as the result of that poll. `batch`, `new`: the events of the batch, and those of them that are new.
    """
    bound = {key: run.submission for key, run in before.items() if run.submission}
    if not bound:
        return
    polled = {
        each.key
        for each in batch
        if each.event.via == "poll" and each.key in bound and each.event.submission_id == bound[each.key].id
    }
    facts = {key: list(before[key].facts) for key in bound}
    for each in new:
        if each.key in bound and each.facts and each.disposition != "test":
            facts[each.key].append(each.facts)
    over, once_more = [], []
    for key in bound:
        first = not any(each.final for each in before[key].facts)
        if not deduplication.may_lack_output(facts[key]) or (key in polled and not first):
            over.append(key)
        elif first:
            once_more.append(key)
    later = now + poll_schedule.AFTER_CANCEL
    due_after_end(connection, over, None, now)
    due_after_end(connection, once_more, later, now)
