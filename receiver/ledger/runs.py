"""Queries for the status and result of runs. Reads only: events.py writes the runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import sqlalchemy as sa

from receiver.domain.run import RunKey
from receiver.ledger import bulk
from receiver.ledger.schema import events, runs, submissions


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run as its newest event says. `status` is as Skyvern says, `outcome` after correction: see domain.run.Run."""

    source: str
    run_id: str
    run_type: str
    status: str
    outcome: str
    attempt: int
    final: bool
    event_id: str
    submission_id: str


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run with the body of its newest event, as the ledger keeps it, and when that came."""

    status: RunStatus
    body: bytes = field(repr=False)
    received_at: float


_STATUS = [
    runs.c.source,
    runs.c.run_id,
    runs.c.run_type,
    runs.c.status,
    runs.c.outcome,
    runs.c.attempt,
    runs.c.final,
    runs.c.event_id,
    runs.c.submission_id,
]


def run_statuses(connection: sa.Connection, keys: Collection[RunKey]) -> dict[RunKey, RunStatus]:
    """Return the status of those runs of which an event is known. One query a source, however many are asked for."""
    found: dict[RunKey, RunStatus] = {}
    for source, run_ids in bulk.by_source(keys):
        query = sa.select(*_STATUS).where(
            runs.c.source == source, bulk.among(connection, runs.c.run_id, run_ids), runs.c.event_id != ""
        )
        for row in connection.execute(query):
            found[row.source, row.run_id] = RunStatus(*row)
    return found


def result(connection: sa.Connection, source: str, run_id: str) -> RunResult | None:
    """Return the run's result, or None when it is not final."""
    row = connection.execute(
        sa.select(*_STATUS, events.c.body, events.c.received_at)
        .join(events, events.c.id == runs.c.event_id)
        .where(runs.c.source == source, runs.c.run_id == run_id, runs.c.final.is_(True))
    ).first()
    return None if row is None else RunResult(RunStatus(*row[: len(_STATUS)]), bytes(row.body), row.received_at)


def is_ours(connection: sa.Connection, source: str, run_id: str) -> bool:
    """Whether we submitted the run, so that its result will come."""
    query = sa.select(submissions.c.id).where(submissions.c.source == source, submissions.c.run_id == run_id).limit(1)
    return connection.execute(query).first() is not None


def final_runs(connection: sa.Connection, keys: Iterable[RunKey]) -> set[RunKey]:
    """Return those of the runs whose end the ledger knows."""
    found: set[RunKey] = set()
    for source, run_ids in bulk.by_source(keys):
        query = sa.select(runs.c.source, runs.c.run_id).where(
            runs.c.source == source, bulk.among(connection, runs.c.run_id, run_ids), runs.c.final
        )
        found |= {(row[0], row[1]) for row in connection.execute(query)}
    return found


def ended_at(connection: sa.Connection, source: str, run_id: str) -> float | None:
    """Return when a run whose end the ledger knows changed last; None when it does not know its end."""
    query = sa.select(runs.c.updated_at).where(runs.c.source == source, runs.c.run_id == run_id, runs.c.final)
    return connection.execute(query).scalar()
