"""Queries for people and programs: lists and single rows, as plain dictionaries. Changes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from receiver.domain.delivery import ENDED
from receiver.ledger.schema import attempts, deliveries, events, runs, submissions

FULL_ID = len("evt_") + 32
# Rows of a list by default.
LIMIT = 50


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows of a list. `status`: the run's outcome. Times: seconds since the epoch."""

    source: str = ""
    run_id: str = ""
    event_id: str = ""
    status: Sequence[str] = ()
    sink: str = ""
    state: Sequence[str] = ()
    since: float | None = None
    until: float | None = None
    limit: int = LIMIT
    offset: int = 0


def begins(column: sa.Column[Any], beginning: str) -> sa.ColumnElement[bool]:
    """Return the condition that an id is or begins with `beginning`: people copy ids from tables that cut them."""
    if len(beginning) >= FULL_ID:
        return column == beginning
    # What follows is hex digits, which sort before "g" in every collation.
    return sa.and_(column >= beginning, column < beginning + "g")


def narrowed(
    query: sa.Select[Any],
    wanted: Filter,
    *,
    source: sa.Column[Any],
    run_id: sa.Column[Any],
    status: sa.Column[Any],
    moment: sa.Column[Any],
    event_id: sa.Column[Any] | None = None,
    sink: sa.Column[Any] | None = None,
    state: sa.Column[Any] | None = None,
) -> sa.Select[Any]:
    """Narrow `query` to what is wanted. Each column is the one in which `query` has that; None where it has none."""
    if wanted.source:
        query = query.where(source == wanted.source)
    if wanted.run_id:
        query = query.where(run_id == wanted.run_id)
    if wanted.status:
        query = query.where(status.in_(wanted.status))
    if wanted.since is not None:
        query = query.where(moment >= wanted.since)
    if wanted.until is not None:
        query = query.where(moment < wanted.until)
    if wanted.event_id and event_id is not None:
        query = query.where(begins(event_id, wanted.event_id))
    if wanted.sink and sink is not None:
        query = query.where(sink == wanted.sink)
    if wanted.state and state is not None:
        query = query.where(state.in_(wanted.state))
    return query


def matching_events(query: sa.Select[Any], wanted: Filter) -> sa.Select[Any]:
    """Narrow `query`, which is of events, to those that are wanted."""
    it = events.c
    return narrowed(
        query, wanted, source=it.source, run_id=it.run_id, event_id=it.id, status=it.outcome, moment=it.recorded_at
    )


def list_runs(connection: sa.Connection, wanted: Filter) -> list[dict[str, Any]]:
    """Runs, the one that changed last first, each with the count of its deliveries by state."""
    query = sa.select(runs).order_by(runs.c.updated_at.desc(), runs.c.run_id).limit(wanted.limit).offset(wanted.offset)
    it = runs.c
    query = query.where(it.events > 0)  # of the others, nothing is known but that Skyvern is to be asked for them
    query = narrowed(query, wanted, source=it.source, run_id=it.run_id, status=it.outcome, moment=it.updated_at)
    found = [dict(row._mapping) for row in connection.execute(query)]
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for row in connection.execute(
        sa.select(deliveries.c.source, deliveries.c.run_id, deliveries.c.state, sa.func.count())
        .where(deliveries.c.run_id.in_([run["run_id"] for run in found]))
        .group_by(deliveries.c.source, deliveries.c.run_id, deliveries.c.state)
    ):
        counts.setdefault((row[0], row[1]), {})[row[2]] = row[3]
    for run in found:
        run["labels"] = json.loads(run["labels"])
        run["deliveries"] = counts.get((run["source"], run["run_id"]), {})
    return found


def list_events(connection: sa.Connection, wanted: Filter) -> list[dict[str, Any]]:
    """Events without their bodies, the newest first."""
    columns = [column for column in events.c if column.name not in ("body", "fingerprint")]
    query = sa.select(*columns, sa.func.length(events.c.body).label("size")).order_by(events.c.seq.desc())
    query = matching_events(query, wanted).limit(wanted.limit).offset(wanted.offset)
    return [dict(row._mapping) for row in connection.execute(query)]


def matching_deliveries(wanted: Filter) -> sa.Select[Any]:
    """Return the query for deliveries, without order or limit, joined with their events."""
    query = sa.select(
        deliveries,
        events.c.outcome.label("status"),
        events.c.run_type,
        events.c.via,
        events.c.received_at,
    ).join(events, events.c.id == deliveries.c.event_id)
    return narrowed(
        query,
        wanted,
        source=deliveries.c.source,
        run_id=deliveries.c.run_id,
        event_id=deliveries.c.event_id,
        status=events.c.outcome,
        moment=deliveries.c.created_at,
        sink=deliveries.c.sink,
        state=deliveries.c.state,
    )


def list_deliveries(connection: sa.Connection, wanted: Filter) -> list[dict[str, Any]]:
    """Deliveries with their run's status and, where there is one, their receipt; the one that changed last first."""
    query = matching_deliveries(wanted).order_by(deliveries.c.updated_at.desc(), deliveries.c.id)
    found = [dict(row._mapping) for row in connection.execute(query.limit(wanted.limit).offset(wanted.offset))]
    receipts = {
        row.delivery_id: json.loads(row.receipt)
        for row in connection.execute(
            sa.select(attempts.c.delivery_id, attempts.c.receipt)
            .where(attempts.c.delivery_id.in_([each["id"] for each in found]), attempts.c.receipt.is_not(None))
            .order_by(attempts.c.number)
        )
    }
    for each in found:
        each["after"] = json.loads(each["after"])
        each["receipt"] = receipts.get(each["id"])
    return found


def list_attempts(connection: sa.Connection, thing: str) -> list[dict[str, Any]]:
    """List the attempts, with their sink, of a delivery, or of all deliveries of an event or a run; the oldest first.

    `thing`: the id of one of them; of a delivery or event its beginning will do.
    """
    query = sa.select(attempts, deliveries.c.sink).join(deliveries, deliveries.c.id == attempts.c.delivery_id)
    if thing.startswith("dlv_"):
        query = query.where(begins(attempts.c.delivery_id, thing))
    elif thing.startswith("evt_"):
        query = query.where(begins(deliveries.c.event_id, thing))
    else:
        query = query.where(deliveries.c.run_id == thing)
    rows = connection.execute(query.order_by(deliveries.c.sink, attempts.c.delivery_id, attempts.c.number))
    return [{**row._mapping, "receipt": json.loads(row.receipt) if row.receipt else None} for row in rows]


def list_submissions(
    connection: sa.Connection, wanted: Filter, labels: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """List submissions without their answers, the newest first, each with its run's outcome if that is known.

    Of the filter: source, run, state of the submission, outcome of the run, and when it was made. `labels`: all must
    be its own.
    """
    columns = [column for column in submissions.c if column.name not in _UNSHOWN]
    query: sa.Select[Any] = (
        sa.select(*columns, sa.func.coalesce(runs.c.outcome, "").label("status"))
        .outerjoin(runs, sa.and_(runs.c.source == submissions.c.source, runs.c.run_id == submissions.c.run_id))
        .order_by(submissions.c.created_at.desc(), submissions.c.id)
    )
    it = submissions.c
    query = narrowed(
        query, wanted, source=it.source, run_id=it.run_id, status=runs.c.outcome, moment=it.created_at, state=it.state
    )
    for name, value in sorted((labels or {}).items()):
        # As json.dumps writes a pair; no name and no value can be taken for another, for both are quoted there.
        query = query.where(it.labels.contains(f"{json.dumps(name)}: {json.dumps(value)}", autoescape=True))
    found = [dict(row._mapping) for row in connection.execute(query.limit(wanted.limit).offset(wanted.offset))]
    for each in found:
        each["labels"] = json.loads(each["labels"])
    return found


# The caller's address and key may hold secrets, and its answer is a result.
_UNSHOWN = frozenset({"callback_url", "idempotency_key", "request_hash", "answer"})


def counts(connection: sa.Connection) -> list[dict[str, Any]]:
    """Count the deliveries of each sink in each state."""
    rows = connection.execute(
        sa.select(deliveries.c.sink, deliveries.c.state, sa.func.count().label("count"))
        .group_by(deliveries.c.sink, deliveries.c.state)
        .order_by(deliveries.c.sink, deliveries.c.state)
    )
    return [dict(row._mapping) for row in rows]


def lanes_of(connection: sa.Connection, sink: str) -> dict[str, int]:
    """Return the lanes that deliveries to `sink` have, and how many of each have not ended."""
    under_way = sa.func.count().filter(deliveries.c.state.not_in([state.value for state in ENDED]))
    query = sa.select(deliveries.c.lane, under_way).where(deliveries.c.sink == sink).group_by(deliveries.c.lane)
    return {row[0]: row[1] for row in connection.execute(query)}
