"""Read the status and result of runs.

Everything else about runs is written by events.py.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import sqlalchemy as sa

from receiver.domain.run import RunKey
from receiver.ledger.database import dialect
from receiver.ledger.schema import events, runs, submissions

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run according to its newest event. `status`: Skyvern's. `outcome`: after correction, see domain.run.Run.

    Without any event, `event_id` and the event's fields are "". `retried_by`: the run that Skyvern started as its
    retry, or "".
    """

    source: str
    run_id: str
    run_type: str
    status: str
    outcome: str
    final: bool
    event_id: str
    submission_id: str
    retried_by: str = ""


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run with the stored body of its newest event, and when that was received.

    `completion`: members that the body lacks. `request`, `answer`: of its submission, if stored.
    """

    status: RunStatus
    body: bytes = field(repr=False)
    received_at: float
    completion: Mapping[str, Any] = field(repr=False, default_factory=dict)
    request: Mapping[str, Any] | None = field(repr=False, default=None)
    answer: bytes | None = field(repr=False, default=None)


# Maximum number of successive retries of a run that are followed.
_LONGEST_CHAIN = 50

_STATUS = [
    *(runs.c[each.name] for each in fields(RunStatus)[:-1]),
    sa.func.coalesce(runs.c.retried_by, "").label("retried_by"),
]


def _this(source: str, run_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(runs.c.source == source, runs.c.run_id == run_id)


def update_run(
    connection: sa.Connection, source: str, run_id: str, *conditions: sa.ColumnElement[bool], **values: Any
) -> int:
    """Update columns of one run, if it meets the conditions. Returns the number of changed rows: 0 or 1."""
    return connection.execute(sa.update(runs).where(_this(source, run_id), *conditions).values(**values)).rowcount


def run_value(connection: sa.Connection, source: str, run_id: str, column: sa.Column[T]) -> T | None:
    """Return a column of one run, or None if the run is unknown."""
    return connection.execute(sa.select(column).where(_this(source, run_id))).scalar()


def run_statuses(connection: sa.Connection, keys: Collection[RunKey]) -> dict[RunKey, RunStatus]:
    """Return the status of these runs, except those without an event."""
    rows = connection.execute(sa.select(*_STATUS).where(dialect.of_runs(runs, keys), runs.c.event_id != ""))
    return {(row.source, row.run_id): RunStatus(*row) for row in rows}


def result(connection: sa.Connection, source: str, run_id: str) -> RunResult | None:
    """Return the run's result, or None if it is not final."""
    its = (events.c.body, events.c.received_at, events.c.completion, submissions.c.request, submissions.c.answer)
    query = sa.select(*_STATUS, *its).join(events, events.c.id == runs.c.event_id)
    query = query.join(submissions, submissions.c.id == runs.c.submission_id, isouter=True)
    row = connection.execute(query.where(_this(source, run_id), runs.c.final)).first()
    if row is None:
        return None
    return RunResult(
        RunStatus(*row[: len(_STATUS)]),
        bytes(row.body),
        row.received_at,
        json.loads(row.completion) if row.completion else {},
        None if row.request is None else json.loads(row.request),
        None if row.answer is None else bytes(row.answer),
    )


def last_of_chain(connection: sa.Connection, source: str, run_id: str) -> str:
    """Return the id of the last retry that Skyvern started for this run, or the run's own id."""
    seen = {run_id}
    while len(seen) <= _LONGEST_CHAIN:
        following = run_value(connection, source, run_id, runs.c.retried_by)
        if not following or following in seen:
            break
        run_id = following
        seen.add(run_id)
    return run_id


def is_ours(connection: sa.Connection, source: str, run_id: str) -> bool:
    """Whether the run was submitted through Runhook, so that its result will follow."""
    query = sa.select(submissions.c.id).where(submissions.c.source == source, submissions.c.run_id == run_id).limit(1)
    return connection.execute(query).first() is not None


def final_runs(connection: sa.Connection, keys: Iterable[RunKey]) -> set[RunKey]:
    """Return those of the runs that are final in the ledger."""
    query = sa.select(runs.c.source, runs.c.run_id).where(dialect.of_runs(runs, keys), runs.c.final)
    return {(row.source, row.run_id) for row in connection.execute(query)}


def ended_at(connection: sa.Connection, source: str, run_id: str) -> float | None:
    """Return when a final run last changed; None if it is not final in the ledger."""
    return connection.execute(sa.select(runs.c.updated_at).where(_this(source, run_id), runs.c.final)).scalar()
