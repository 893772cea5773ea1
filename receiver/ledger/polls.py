"""The polls of Skyvern's API: one row for each run, or submission without a known run, whose result is missing.

To have a run polled sooner, move its `due_at`. A poll is leased, so that only one of several clocks sends it; the lease
of a killed clock expires. Transactions that lock runs and submissions lock polls after them, sorted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import sqlalchemy as sa

from receiver.domain import deduplication, poll_schedule
from receiver.domain.history import RunHistory
from receiver.domain.new_event import NewEvent
from receiver.domain.parsed_event import ParsedEvent
from receiver.domain.run import RunKey
from receiver.ledger.database import dialect, many_rows
from receiver.ledger.lists.filters import same_run
from receiver.ledger.runs import final_runs
from receiver.ledger.schema import polls, runs, submissions
from receiver.ledger.submissions.records import change

# Maximum seconds for one poll.
LEASE = 90.0
# Seconds by which an existing poll may be later than requested.
SOON = 2 * LEASE
# Seconds between two polls of a run that a caller waits for, and from its submit to the first one: most webhooks of
# short runs come by then.
WAIT_INTERVAL = 3.0
FIRST_WAIT = 0.5
# Marks runs found by a walk of Skyvern's list: their event has `via: import`.
IMPORT = "import"


class Poll(NamedTuple):
    """A poll. `run_id`: the run, or the id of a submission whose run is unknown.

    `planned_at`: when it is due without callers that wait. `polls`: how many polls brought no result. `status`,
    `reason`: what the last one showed. `noted_at`: when Skyvern's API first showed an end. `found_by`: see IMPORT.
    """

    source: str
    run_id: str
    due_at: float
    planned_at: float
    leased_until: float | None
    polls: int
    status: str
    reason: str
    noted_at: float | None
    found_by: str
    created_at: float
    updated_at: float

    @property
    def key(self) -> RunKey:
        """The key of its row."""
        return self.source, self.run_id

    def is_late(self, now: float) -> bool:
        """Whether it is due too late for a caller that waits."""
        interval = WAIT_INTERVAL if self.reason else FIRST_WAIT
        return self.due_at > now and self.updated_at < now - interval


_COLUMNS = [polls.c[name] for name in Poll._fields]


def _is_due(now: float) -> sa.ColumnElement[bool]:
    return sa.and_(polls.c.due_at <= now, sa.func.coalesce(polls.c.leased_until, 0.0) <= now)


def count_due(connection: sa.Connection, now: float, sources: Collection[str], limit: int) -> dict[str, int]:
    """Count the due polls by source, up to `limit` for each, so that one source cannot hide another."""
    counts = {}
    for source in sources:
        due = sa.select(polls.c.source).where(polls.c.source == source, _is_due(now)).limit(limit).subquery()
        if count := connection.execute(sa.select(sa.func.count()).select_from(due)).scalar_one():
            counts[source] = count
    return counts


def lease_due(connection: sa.Connection, source: str, now: float, limit: int) -> list[Poll]:
    """Lease and return up to `limit` due polls, the longest waiting first; only those that an earlier try with the same
    `now` leased, if any."""
    until = now + LEASE
    query = sa.select(*_COLUMNS).where(polls.c.source == source).order_by(polls.c.due_at).limit(limit)
    query = query.with_for_update(skip_locked=True)
    rows = connection.execute(query.where(polls.c.leased_until == until, polls.c.due_at <= now)).all()
    rows = rows or connection.execute(query.where(_is_due(now))).all()
    leased = [Poll(*row)._replace(leased_until=until) for row in rows]
    if leased:
        these = dialect.of_runs(polls, [each.key for each in leased])
        connection.execute(sa.update(polls).where(these).values(leased_until=until))
    return leased


def of_runs(connection: sa.Connection, keys: Collection[RunKey]) -> dict[RunKey, Poll]:
    """Return the polls with these keys."""
    rows = connection.execute(sa.select(*_COLUMNS).where(dialect.of_runs(polls, keys)))
    return {(row.source, row.run_id): Poll(*row) for row in rows}


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
    """Schedule polls of runs without a final event, each at its time. Returns their number.

    `due_times`: times by run id. `grace`: seconds between the seen ends and these times, if the ends were seen. `soon`:
    seconds by which an existing poll may be later.
    """
    final = final_runs(connection, [(source, run_id) for run_id in due_times]) if due_times else set()
    rows = [
        _row(source, run_id, due_times[run_id], now)
        | {"noted_at": None if grace is None else min(due_times[run_id] - grace, now), "found_by": found_by}
        for run_id in sorted(due_times)
        if (source, run_id) not in final
    ]
    many_rows.insert_many(connection, polls, rows, _hastening(soon))
    return len(rows)


def hasten(connection: sa.Connection, keys: Iterable[RunKey], now: float) -> None:
    """Poll these now, because callers wait for them. Their planned polls stay as they are."""
    rows = [_row(source, run_id, now, now) for run_id, source in sorted((key[1], key[0]) for key in keys)]
    many_rows.insert_many(connection, polls, rows, _hasten_for_caller)


def plan(connection: sa.Connection, key: RunKey, due_at: float, now: float) -> None:
    """Schedule a poll, unless it is due earlier."""
    many_rows.insert_many(connection, polls, [_row(*key, due_at, now)], _hastening(0.0))


def _row(source: str, run_id: str, due_at: float, now: float) -> dict[str, Any]:
    times = {"due_at": due_at, "planned_at": due_at, "created_at": now, "updated_at": now}
    return {"source": source, "run_id": run_id, **times}


@cache
def _hastening(soon: float) -> many_rows.Conflict:
    return partial(_hasten, soon=soon)


def _hasten(insert: Any, soon: float) -> Any:
    old, new = polls.c, insert.excluded
    changes: dict[str, Any] = {
        name: sa.case((old[name] > new[name] + soon, new[name]), else_=old[name]) for name in ("due_at", "planned_at")
    }
    first_noted = sa.case((old.noted_at < new.noted_at, old.noted_at), else_=new.noted_at)
    changes["noted_at"] = sa.func.coalesce(first_noted, old.noted_at)
    changes["found_by"] = sa.case((new.found_by != "", new.found_by), else_=old.found_by)
    return many_rows.or_update(insert, {**changes, "updated_at": new.updated_at})


def _hasten_for_caller(insert: Any) -> Any:
    old, new = polls.c, insert.excluded
    return many_rows.or_update(insert, {"due_at": new.due_at, "updated_at": new.updated_at}, old.due_at > new.due_at)


def postpone(
    connection: sa.Connection,
    poll: Poll,
    due_at: float,
    now: float,
    reason: str,
    *,
    status: str = "",
    refused_until: float | None = None,
) -> None:
    """Poll again at `due_at`. Does nothing if polling has ended, or if an earlier try did this.

    `refused_until`: Skyvern asked to wait, so that callers cannot hasten the poll before.
    """
    it = polls.c
    at = sa.case((it.planned_at < poll.planned_at, it.planned_at), else_=due_at)  # a request during the poll
    values: dict[str, Any] = {"due_at": at, "planned_at": at, "leased_until": refused_until, "updated_at": now}
    values |= {"polls": it.polls + (1 if poll.planned_at <= now else 0), "status": status, "reason": reason}
    these = dialect.of_runs(polls, [poll.key])
    connection.execute(sa.update(polls).where(these, it.leased_until == poll.leased_until).values(values))


def note_end(connection: sa.Connection, key: RunKey, now: float) -> float:
    """Record that Skyvern's API shows the end of a polled run. Returns when that was first: the earliest time is kept.

    Returns `now` if polling has ended."""
    noted_at = sa.case((polls.c.noted_at < now, polls.c.noted_at), else_=now)
    noted = sa.update(polls).where(dialect.of_runs(polls, [key])).values(noted_at=noted_at)
    return connection.execute(noted.returning(polls.c.noted_at)).scalar() or now


def clear_note(connection: sa.Connection, key: RunKey) -> None:
    """Forget the end that was seen, because the run continues."""
    connection.execute(sa.update(polls).where(dialect.of_runs(polls, [key])).values(noted_at=None))


def stop(connection: sa.Connection, keys: Iterable[RunKey], reason: str = "") -> None:
    """Stop these polls. `reason`: why no result is expected, for their submissions."""
    keys = list(keys)
    if reason:
        for submission_id in connection.execute(sa.select(submissions.c.id).where(dialect.of_runs(submissions, keys))):
            change(connection, submission_id[0], reason=reason)
    _delete(connection, dialect.of_runs(polls, keys))


def _delete(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[Poll]:
    """Delete polls after locking them in the order of other writers. Returns them."""
    rows = connection.execute(
        sa.select(*_COLUMNS).where(condition).order_by(polls.c.run_id, polls.c.source).with_for_update()
    ).all()
    deleted = [Poll(*row) for row in rows]
    if deleted:
        connection.execute(sa.delete(polls).where(dialect.of_runs(polls, [each.key for each in deleted])))
    return deleted


def after_events(
    connection: sa.Connection,
    batch: Iterable[ParsedEvent],
    before: Mapping[RunKey, RunHistory],
    new: Iterable[NewEvent],
    once_more: Mapping[RunKey, float],
    now: float,
) -> None:
    """End the polls of submitted runs that are final, except after a first final event that is a cancel without output.

    Such a run is polled once more later: its output may come in a second webhook, which can be lost. An event from a
    poll counts as the result of that poll. `batch`, `new`: the events of the batch, and those of them that are new.
    `once_more`: when to poll runs again for what their events lack.
    """
    bound = {key: run.submission for key, run in before.items() if run.submission}
    if bound:
        polled = {
            each.key
            for each in batch
            if each.event.via == "poll" and each.key in bound and each.event.submission_id == bound[each.key].id
        }
        facts = {key: list(before[key].facts) for key in bound}
        for each in new:
            if each.key in bound and each.facts and each.disposition != "test":
                facts[each.key].append(each.facts)
        over, canceled = [], []
        for key in bound:
            first = not any(each.final for each in before[key].facts)
            if not deduplication.may_lack_output(facts[key]) or (key in polled and not first):
                over.append(key)
            elif first:
                canceled.append(key)
        _end(connection, over, canceled, {(key[0], each.id): key for key, each in bound.items()}, now)
    rows = [_row(*key, once_more[key], now) for key in sorted(once_more, key=lambda key: key[::-1])]
    many_rows.insert_many(connection, polls, rows, many_rows.do_nothing)


def _end(
    connection: sa.Connection,
    over: Collection[RunKey],
    canceled: Collection[RunKey],
    found: Mapping[RunKey, RunKey],
    now: float,
) -> None:
    """End the polls of final runs: for good those of `over`; those of `canceled` continue later.

    `found`: the runs by the keys of polls that searched for them.
    """
    is_final = sa.exists().where(*same_run(runs, polls), runs.c.final)
    ended = sa.and_(dialect.of_runs(polls, [*over, *canceled]), is_final)
    deleted = _delete(connection, sa.or_(ended, dialect.of_runs(polls, found)))
    searched = {found[each.key]: each for each in deleted if each.key in found}
    if canceled or searched:
        final = final_runs(connection, [*canceled, *searched])
        for key in sorted(final & {*canceled}, key=lambda key: key[::-1]):
            plan(connection, key, now + poll_schedule.AFTER_CANCEL, now)
        for key in sorted(searched.keys() - final, key=lambda key: key[::-1]):
            plan(connection, key, searched[key].due_at, now)
