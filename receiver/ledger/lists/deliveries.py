"""The list of deliveries, the one that changed last first, and that of their attempts in the same order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryState
from receiver.ledger import dialect
from receiver.ledger.filters import Condition, Filter, begins, in_states, of_deliveries
from receiver.ledger.lists import narrowing
from receiver.ledger.lists.paging import Key, KeysetList, Page, Row, Walk
from receiver.ledger.schema import attempts, deliveries, events

# Who sends it, and a caller's address with what signs for it, are nobody else's business.
_UNSHOWN: Final = frozenset({"claim_owner", "target", "target_key"})
_SHOWN: Final = tuple(column for column in deliveries.c if column.name not in _UNSHOWN)
_KEY: Final = (deliveries.c.updated_at, deliveries.c.id)
LISTING: Final = KeysetList(_SHOWN, _KEY)

# What is needed of the delivery of an attempt.
_TRIED: Final = tuple(
    deliveries.c[name] for name in ("id", "event_id", "source", "run_id", "sink", "state", "attempts", "updated_at")
)
_WITH_ATTEMPTS: Final = KeysetList(_TRIED, _KEY)


def list_deliveries(connection: sa.Connection, wanted: Filter, after: Key | None, limit: int) -> Page:
    """Return a page of the deliveries with what their events say and, where there is one, their receipt.

    All of the filter applies; of `limit` the parameter.
    """
    if wanted.impossible:
        return [], None
    found, rest = _page(connection, LISTING, wanted, after, limit)
    return _completed(connection, found), rest


def list_attempts(connection: sa.Connection, wanted: Filter, after: Key | None, limit: int) -> Page:
    """Return a page of the attempts of the deliveries that are wanted: the delivery that changed last first, and of
    each its newest attempt first."""
    if wanted.impossible:
        return [], None
    it = deliveries.c
    rows: list[Row] = []
    if after is not None:
        *place, below = after
        after = tuple(place)
        if below > 1:
            query = sa.select(*_TRIED).where(it.id == place[-1])
            if wanted.source:  # whoever makes a place up sees nothing of another one by it
                query = query.where(it.source == wanted.source)
            begun = [dict(row._mapping) for row in connection.execute(query)]
            rows += _attempts(connection, begun, below, limit)
        if len(rows) >= limit:
            return rows, (*place, rows[-1]["number"])
    found, rest = _page(connection, _WITH_ATTEMPTS, wanted, after, limit - len(rows), it.attempts > 0)
    whole: list[Row] = []
    for row in found:
        left = limit - len(rows) - sum(each["attempts"] for each in whole)
        if row["attempts"] >= left:
            rows += _attempts(connection, whole) + _attempts(connection, [row], row["attempts"] + 1, left)
            number = rows[-1]["number"] if rows and rows[-1]["delivery_id"] == row["id"] else 1
            return rows, (row["updated_at"], row["id"], number)
        whole.append(row)
    return rows + _attempts(connection, whole), None if rest is None else (*rest, 1)


def named(connection: sa.Connection, beginning: str, source: str = "") -> list[Row]:
    """Return up to two deliveries whose id is or begins so, as `list_deliveries` tells them. `source`: its deliveries
    only; "": of all."""
    query = sa.select(*_SHOWN).where(begins(deliveries.c.id, beginning))
    if source:
        query = query.where(deliveries.c.source == source)
    found = connection.execute(query.order_by(deliveries.c.id).limit(2))
    return _completed(connection, [dict(row._mapping) for row in found])


def attempts_of(connection: sa.Connection, beginning: str, wanted: Filter, after: Key | None, limit: int) -> Page:
    """Return a page of the attempts of the deliveries that are wanted and whose id begins so, each one's oldest first.
    Its positions are the sink, the delivery's id and the number of the attempt."""
    told = [deliveries.c[name] for name in _OF_DELIVERY]
    query = sa.select(attempts, *told).join(deliveries, deliveries.c.id == attempts.c.delivery_id)
    query = query.where(begins(deliveries.c.id, beginning), *of_deliveries(wanted))
    order = (deliveries.c.sink, deliveries.c.id, attempts.c.number)
    if after is not None:
        query = query.where(sa.tuple_(*order) > after)
    found = connection.execute(query.order_by(*order).limit(limit + 1))
    rows = [{**row._mapping, "receipt": json.loads(row.receipt) if row.receipt else None} for row in found]
    more = len(rows) > limit
    rows = rows[:limit]
    return rows, (rows[-1]["sink"], rows[-1]["delivery_id"], rows[-1]["number"]) if more else None


def _page(
    connection: sa.Connection, listing: KeysetList, wanted: Filter, after: Key | None, limit: int, *more: Condition
) -> Page:
    # What was created since then has changed since then. By when it changed, it may have been created before `until`.
    states, rest = sorted(set(wanted.state)), replace(wanted, state=())
    if not states or DeliveryState.DELIVERED in states:  # of those delivered there is no index
        walk = Walk(conditions=[*of_deliveries(wanted), *more], since=wanted.since)
    else:
        walk = Walk([in_states(each) for each in states], [*of_deliveries(rest), *more], wanted.since)
    return narrowing.page(connection, listing, wanted, [*of_deliveries(wanted), *more], walk, after, limit)


def _completed(connection: sa.Connection, found: list[Row]) -> list[Row]:
    """Add what the events of the deliveries say, and their receipts. What retention removes meanwhile is left out."""
    its = dialect.among(events.c.id, [each["event_id"] for each in found])
    query = sa.select(events.c.id, events.c.outcome.label("status"), *_OF_EVENT).where(its)
    told = {row.id: row._mapping for row in connection.execute(query)} if found else {}
    found = [each for each in found if each["event_id"] in told]
    receipts = _receipts(connection, [each["id"] for each in found])
    for each in found:
        each["after"] = json.loads(each["after"])
        each |= {name: value for name, value in told[each["event_id"]].items() if name != "id"}
        each["receipt"] = receipts.get(each["id"])
    return found


_OF_DELIVERY: Final = ("sink", "event_id", "source", "run_id", "state")
_OF_EVENT: Final = (events.c.run_type, events.c.via, events.c.received_at)


def _receipts(connection: sa.Connection, ids: Sequence[str]) -> dict[str, Any]:
    """Return the newest receipt of each delivery that has one."""
    if not ids:
        return {}
    query = (
        sa.select(attempts.c.delivery_id, attempts.c.receipt)
        .join(deliveries, deliveries.c.id == attempts.c.delivery_id)
        .where(dialect.among(deliveries.c.id, ids), attempts.c.receipt.is_not(None))
        .order_by(attempts.c.number)
    )
    return {row.delivery_id: json.loads(row.receipt) for row in connection.execute(query)}


def _attempts(
    connection: sa.Connection, of: Sequence[Row], below: int | None = None, limit: int | None = None
) -> list[Row]:
    """Return the attempts of these deliveries in their order, each one's newest first."""
    if not of:
        return []
    it = attempts.c
    query = sa.select(attempts).join(deliveries, deliveries.c.id == attempts.c.delivery_id)
    query = query.where(dialect.among(deliveries.c.id, [each["id"] for each in of]))
    if below is not None:
        query = query.where(it.number < below)
    tried: dict[str, list[Row]] = {each["id"]: [] for each in of}
    for row in connection.execute(query.order_by(it.number.desc()).limit(limit)):
        tried[row.delivery_id].append(dict(row._mapping))
    return [
        {
            **each,
            **{name: row[name] for name in _OF_DELIVERY},
            "receipt": json.loads(each["receipt"]) if each["receipt"] else None,
        }
        for row in of
        for each in tried[row["id"]]
    ]


def receipts_of(connection: sa.Connection, source: str, run_id: str, limit: int) -> list[Row]:
    """Return the newest receipts of a run's deliveries that name what was written, the newest first, each with its sink
    and the time."""
    it = attempts.c
    query = (
        sa.select(it.delivery_id, deliveries.c.sink, it.receipt, it.ended_at)
        .join(deliveries, deliveries.c.id == attempts.c.delivery_id)
        .where(deliveries.c.run_id == run_id, deliveries.c.source == source, it.receipt.is_not(None))
        .order_by(it.ended_at.desc(), it.delivery_id)
        .limit(limit)
    )
    found = [{**row._mapping, "receipt": json.loads(row.receipt)} for row in connection.execute(query)]
    return [each for each in found if each["receipt"].get("keys")]
