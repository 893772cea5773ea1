"""Queries for people and programs: lists and single rows, as plain dictionaries. Changes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from receiver.ledger.filters import LIMIT, Filter, begins, has_labels, matching_deliveries, matching_events
from receiver.ledger.lists.paging import every_page
from receiver.ledger.lists.runs import list_runs as pages_of_runs
from receiver.ledger.schema import attempts, deliveries, events, runs, submissions

__all__ = ["LIMIT", "Filter"]


def list_runs(connection: sa.Connection, wanted: Filter) -> list[dict[str, Any]]:
    """Runs, the one that changed last first, each with the count of its deliveries by state."""
    return every_page(lambda after, limit: pages_of_runs(connection, wanted, after, limit), wanted.limit)


def list_events(connection: sa.Connection, wanted: Filter) -> list[dict[str, Any]]:
    """Events without their bodies, the newest first."""
    columns = [column for column in events.c if column.name not in ("body", "fingerprint")]
    query = sa.select(*columns, sa.func.length(events.c.body).label("size")).order_by(events.c.seq.desc())
    query = matching_events(query, wanted).limit(wanted.limit)
    return [dict(row._mapping) for row in connection.execute(query)]


def list_deliveries(connection: sa.Connection, wanted: Filter) -> list[dict[str, Any]]:
    """Deliveries with their run's status and, where there is one, their receipt; the one that changed last first."""
    query = matching_deliveries(wanted).order_by(deliveries.c.updated_at.desc(), deliveries.c.id)
    found = [dict(row._mapping) for row in connection.execute(query.limit(wanted.limit))]
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
    conditions = has_labels(it.labels, labels or {})
    if wanted.source:
        conditions.append(it.source == wanted.source)
    if wanted.run_id:
        conditions.append(it.run_id == wanted.run_id)
    if wanted.status:
        conditions.append(runs.c.outcome.in_(wanted.status))
    if wanted.state:
        conditions.append(it.state.in_(wanted.state))
    if wanted.since is not None:
        conditions.append(it.created_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(it.created_at < wanted.until)
    query = query.where(*conditions)
    found = [dict(row._mapping) for row in connection.execute(query.limit(wanted.limit))]
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
