"""Queries for people and programs: lists and single rows, as plain dictionaries. Changes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from receiver.ledger.filters import LIMIT, Filter, begins
from receiver.ledger.lists import deliveries, events, runs, submissions
from receiver.ledger.lists.paging import every_page
from receiver.ledger.schema import attempts
from receiver.ledger.schema import deliveries as sent

__all__ = ["LIMIT", "Filter"]


def list_runs(connection: sa.Connection, wanted: Filter) -> list[dict[str, Any]]:
    """Runs, the one that changed last first, each with the count of its deliveries by state."""
    return every_page(lambda after, limit: runs.list_runs(connection, wanted, after, limit), wanted.limit)


def list_events(connection: sa.Connection, wanted: Filter) -> list[dict[str, Any]]:
    """Events without their bodies, the newest first."""
    return every_page(lambda after, limit: events.list_events(connection, wanted, after, limit), wanted.limit)


def list_deliveries(connection: sa.Connection, wanted: Filter) -> list[dict[str, Any]]:
    """Deliveries with their run's status and, where there is one, their receipt; the one that changed last first."""
    return every_page(lambda after, limit: deliveries.list_deliveries(connection, wanted, after, limit), wanted.limit)


def list_attempts(connection: sa.Connection, thing: str, source: str = "") -> list[dict[str, Any]]:
    """List the attempts, with their sink, of a delivery, or of all deliveries of an event or a run; the oldest first.

    `thing`: the id of one of them; of a delivery or event its beginning will do. `source`: only of this one's.
    """
    told = (sent.c.sink, sent.c.event_id, sent.c.source, sent.c.run_id, sent.c.state)
    query = sa.select(attempts, *told).join(sent, sent.c.id == attempts.c.delivery_id)
    if source:
        query = query.where(sent.c.source == source)
    if thing.startswith("dlv_"):
        query = query.where(begins(attempts.c.delivery_id, thing))
    elif thing.startswith("evt_"):
        query = query.where(begins(sent.c.event_id, thing))
    else:
        query = query.where(sent.c.run_id == thing)
    rows = connection.execute(query.order_by(sent.c.sink, attempts.c.delivery_id, attempts.c.number))
    return [{**row._mapping, "receipt": json.loads(row.receipt) if row.receipt else None} for row in rows]


def list_submissions(
    connection: sa.Connection, wanted: Filter, labels: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Submissions without their answers, the newest first, each with its run's outcome if that is known."""
    wanted = replace(wanted, labels={**wanted.labels, **(labels or {})})
    return every_page(lambda after, limit: submissions.list_submissions(connection, wanted, after, limit), wanted.limit)


def counts(connection: sa.Connection) -> list[dict[str, Any]]:
    """Count the deliveries of each sink in each state."""
    rows = connection.execute(
        sa.select(sent.c.sink, sent.c.state, sa.func.count().label("count"))
        .group_by(sent.c.sink, sent.c.state)
        .order_by(sent.c.sink, sent.c.state)
    )
    return [dict(row._mapping) for row in rows]
