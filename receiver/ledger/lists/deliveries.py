"""The list of deliveries, the one that changed last first, and that of their attempts in the same order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryState
from receiver.ledger.database import dialect
from receiver.ledger.lists.filters import Condition, Filter, has, in_states, of_deliveries
from receiver.ledger.lists.paging import SCAN, Key, KeysetList, Page, Row, Walk, page_of
from receiver.ledger.schema import attempts, deliveries, events

# Which process sends it, and a caller's address and key, are not shown.
_UNSHOWN: Final = frozenset({"claim_owner", "target", "target_key"})
_SHOWN: Final = tuple(column for column in deliveries.c if column.name not in _UNSHOWN)
_KEY: Final = (deliveries.c.updated_at, deliveries.c.id)
LISTING: Final = KeysetList(_SHOWN, _KEY)

# The columns of a delivery that its attempts need.
_TRIED: Final = tuple(
    deliveries.c[name] for name in ("id", "event_id", "source", "run_id", "sink", "state", "attempts", "updated_at")
)
_WITH_ATTEMPTS: Final = KeysetList(_TRIED, _KEY)
_OF_DELIVERY: Final = ("sink", "event_id", "source", "run_id", "state")
_OF_EVENT: Final = (
    events.c.id.label("event_id"),
    events.c.outcome.label("status"),
    events.c.run_type,
    events.c.via,
    events.c.received_at,
)
_DELIVERY: Final = deliveries.c.id == attempts.c.delivery_id


def list_deliveries(
    connection: sa.Connection, filters: Filter, after: Key | None, limit: int, scan: int = SCAN
) -> Page:
    """Return a page of the deliveries, each with facts of its event and its newest receipt."""
    found, rest = _page(connection, LISTING, filters, after, limit, scan)
    return _completed(connection, found), rest


def list_attempts(connection: sa.Connection, filters: Filter, after: Key | None, limit: int, scan: int = SCAN) -> Page:
    """Return a page of the attempts of matching deliveries: the delivery that changed last first, and of each its
    newest attempt first."""
    it, outcome = deliveries.c, filters.outcome
    rows: list[Row] = []
    tried: list[Condition] = [it.attempts > 0]
    if outcome:
        tried.append(has(deliveries, attempts, [_DELIVERY], attempts.c.outcome.in_(outcome)))
    if after is not None:
        *place, below = after
        after = tuple(place)
        if below > 1:
            query = sa.select(*_TRIED).where(it.id == place[-1])
            if filters.source:  # a made-up place shows nothing of another source
                query = query.where(it.source == filters.source)
            begun = [dict(row._mapping) for row in connection.execute(query)]
            rows += _attempts(connection, begun, outcome, below, limit)
        if len(rows) >= limit:
            return rows, (*place, rows[-1]["number"])
    found, rest = _page(connection, _WITH_ATTEMPTS, filters, after, limit - len(rows), scan, *tried)
    complete: list[Row] = []
    for row in found:
        left = limit - len(rows) - sum(each["attempts"] for each in complete)
        if row["attempts"] >= left:
            rows += _attempts(connection, complete, outcome)
            rows += _attempts(connection, [row], outcome, row["attempts"] + 1, left)
            number = rows[-1]["number"] if rows and rows[-1]["delivery_id"] == row["id"] else 1
            return rows, (row["updated_at"], row["id"], number)
        complete.append(row)
    return rows + _attempts(connection, complete, outcome), None if rest is None else (*rest, 1)


def receipts_of(connection: sa.Connection, source: str, run_id: str, limit: int) -> list[Row]:
    """Return the newest receipts of a run's deliveries that have keys, the newest first, with sink and time."""
    it = attempts.c
    query = (
        sa.select(it.delivery_id, deliveries.c.sink, it.receipt, it.ended_at)
        .join(deliveries, _DELIVERY)
        .where(deliveries.c.run_id == run_id, deliveries.c.source == source, it.receipt.is_not(None))
        .order_by(it.ended_at.desc(), it.delivery_id)
        .limit(limit)
    )
    found = (_with_receipt(row) for row in connection.execute(query))
    return [each for each in found if each["receipt"].get("keys")]


def _page(
    connection: sa.Connection,
    listing: KeysetList,
    filters: Filter,
    after: Key | None,
    limit: int,
    scan: int,
    *more: Condition,
) -> Page:
    # A delivery that was created after `since` has changed after it. `until` says nothing of when it changed.
    states, rest = sorted(set(filters.state)), replace(filters, state=())
    conditions = [*of_deliveries(filters), *more]
    if not states or DeliveryState.DELIVERED in states:  # which no index has
        walk = Walk(conditions=conditions, since=filters.since)
    else:
        walk = Walk([in_states(each) for each in states], [*of_deliveries(rest), *more], filters.since)
    return page_of(connection, listing, filters, conditions, walk, after, limit, scan)


def _completed(connection: sa.Connection, found: list[Row]) -> list[Row]:
    """Add facts of the events, and receipts. Rows whose event retention has just removed are left out."""
    of_events = sa.select(*_OF_EVENT).where(dialect.among(events.c.id, [each["event_id"] for each in found]))
    facts = {row.event_id: row._mapping for row in connection.execute(of_events)} if found else {}
    found = [each for each in found if each["event_id"] in facts]
    it = attempts.c
    query = sa.select(it.delivery_id, it.receipt).where(dialect.among(it.delivery_id, [each["id"] for each in found]))
    query = query.where(it.receipt.is_not(None)).order_by(it.number)
    receipts = {row.delivery_id: row.receipt for row in connection.execute(query)} if found else {}
    states = (DeliveryState.DEAD, DeliveryState.WAITING, DeliveryState.QUEUED)
    failed = [each["id"] for each in found if each["attempts"] and each["state"] in states]
    query = sa.select(it.delivery_id, it.response).where(dialect.among(it.delivery_id, failed)).order_by(it.number)
    responses = {row.delivery_id: row.response for row in connection.execute(query)} if failed else {}
    return [
        {
            **each,
            **facts[each["event_id"]],
            "after": json.loads(each["after"]),
            "receipt": json.loads(receipts.get(each["id"], "null")),
            "response": responses.get(each["id"], ""),
        }
        for each in found
    ]


def _attempts(
    connection: sa.Connection,
    of: Sequence[Row],
    outcome: Sequence[str],
    below: int | None = None,
    limit: int | None = None,
) -> list[Row]:
    """Return the attempts of these deliveries in their order, the newest of each first. `outcome`: () for all."""
    if not of:
        return []
    it = attempts.c
    query = sa.select(attempts).where(dialect.among(it.delivery_id, [each["id"] for each in of]))
    if outcome:
        query = query.where(it.outcome.in_(outcome))
    if below is not None:
        query = query.where(it.number < below)
    found: dict[str, list[Row]] = {each["id"]: [] for each in of}
    for row in connection.execute(query.order_by(it.number.desc()).limit(limit)):
        found[row.delivery_id].append(_with_receipt(row))
    return [{**each, **{name: row[name] for name in _OF_DELIVERY}} for row in of for each in found[row["id"]]]


def _with_receipt(row: Any) -> Row:
    return {**row._mapping, "receipt": json.loads(row.receipt) if row.receipt else None}
