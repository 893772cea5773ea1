"""The list of deliveries, the one that changed last first, and that of their attempts in the same order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryState
from receiver.ledger import dialect
from receiver.ledger.attempts_by_delivery import of_delivery
from receiver.ledger.filters import Condition, Filter, begins, of_deliveries
from receiver.ledger.lists import narrowing
from receiver.ledger.lists.paging import Key, Order, Page, Row, Search
from receiver.ledger.schema import attempts, deliveries, events

ORDER: Final = Order((deliveries.c.updated_at, deliveries.c.id))
# Who sends it, and a caller's address with what signs for it, are nobody else's business.
_UNSHOWN: Final = frozenset({"claim_owner", "claim_number", "prefetched", "target", "target_key"})
_SHOWN: Final = tuple(column for column in deliveries.c if column.name not in _UNSHOWN)

# What is needed of the delivery of an attempt.
_TRIED: Final = tuple(
    deliveries.c[name] for name in ("id", "event_id", "source", "run_id", "sink", "state", "attempts", "updated_at")
)


def list_deliveries(connection: sa.Connection, wanted: Filter, after: Key | None, limit: int) -> Page:
    """Return a page of the deliveries with what their events say and, where there is one, their receipt.

    All of the filter applies; of `limit` the parameter.
    """
    if wanted.impossible:
        return [], None
    found, rest = _search(wanted, _SHOWN).page(connection, after, limit)
    return _completed(connection, found), rest


def list_attempts(connection: sa.Connection, wanted: Filter, after: Key | None, limit: int) -> Page:
    """Return a page of the attempts of the deliveries that are wanted: the delivery that changed last first, and of
    each its newest attempt first."""
    if wanted.impossible:
        return [], None
    it = deliveries.c
    search = _search(wanted, _TRIED, it.attempts > 0)
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
    found, rest = search.page(connection, after, limit - len(rows))
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
    query = sa.select(attempts, *told).join(deliveries, of_delivery())
    query = query.where(begins(deliveries.c.id, beginning), *of_deliveries(wanted))
    order = (deliveries.c.sink, deliveries.c.id, attempts.c.number)
    if after is not None:
        query = query.where(sa.tuple_(*order) > after)
    found = connection.execute(query.order_by(*order).limit(limit + 1))
    rows = [{**row._mapping, "receipt": json.loads(row.receipt) if row.receipt else None} for row in found]
    more = len(rows) > limit
    rows = rows[:limit]
    return rows, (rows[-1]["sink"], rows[-1]["delivery_id"], rows[-1]["number"]) if more else None


# The states that any delivery is in, which are seldom all.
_IN_USE: Final = sa.union_all(
    *(
        sa.select(sa.literal(state.value)).where(sa.select(deliveries.c.id).where(deliveries.c.state == state).exists())
        for state in DeliveryState
    )
)


def _search(wanted: Filter, columns: tuple[sa.Column[Any], ...], *further: Condition) -> Search:
    def walks(connection: sa.Connection) -> list[list[Condition]]:
        states: Sequence[str] = sorted(set(wanted.state)) or connection.execute(_IN_USE).scalars().all()
        return [[deliveries.c.state == each] for each in states]

    return Search(
        ORDER,
        columns,
        # The state is that of the walk, and of a set that is read as a whole it is still to be checked.
        conditions=[*of_deliveries(replace(wanted, state=()), bounded=True), *further],
        walks=walks,
        since=wanted.since,  # what was created since then has changed since then
        floor=0.0,  # a bound, by which SQLite's planner sees that the index on state and time fits best
        sets=[
            *narrowing.by_event(wanted, deliveries),
            *narrowing.by_run(wanted, deliveries),
            *narrowing.by_text(wanted, deliveries),
        ],
        wide=narrowing.by_source(wanted, deliveries),
        of_sets=of_deliveries(Filter(state=wanted.state), bounded=True),
    )


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
        .join(deliveries, of_delivery())
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
    query = sa.select(attempts).join(deliveries, of_delivery())
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
