"""Resolve links between deliveries: what a held one waits for, and which receipts it gets. Sends nothing.

`after` of a delivery names the sinks that it waits for. These have a delivery of the same event or, for an update, of
an earlier event with the same result. A delivery no longer waits for a sink that was removed from the config.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.delivery import ENDED, DeliveryMove, DeliveryState, state_after
from receiver.ledger.database import dialect
from receiver.ledger.deliveries.same_result import same
from receiver.ledger.schema import attempts, deliveries, events, in_state

# Held deliveries that one statement reads.
PAGE = 500


HELD: Final = in_state(DeliveryState.HELD)
_ACCEPTED: Final = sa.and_(attempts.c.delivery_id == deliveries.c.id, attempts.c.outcome == "accepted")


_BEHIND: Final = sa.tuple_(sa.bindparam("b_event", type_=sa.Text()), sa.bindparam("b_id", type_=sa.Text()))
_HELD_OF_EVENTS: Final = (
    sa.select(*(deliveries.c[name] for name in ("id", "event_id", "sink", "after")))
    .where(HELD, dialect.among_given(deliveries.c.event_id, "b_events"))
    .where(dialect.row_by_row(sa.tuple_(deliveries.c.event_id, deliveries.c.id) > _BEHIND))  # else all held are read
    .order_by(deliveries.c.event_id, deliveries.c.id)  # the order of their index: by id alone, all are read
    .limit(sa.bindparam("b_page", type_=sa.Integer()))
    # If two transactions end deliveries that one waits for, the second sees the changes of the first.
    .with_for_update()
)


def release_held(
    connection: sa.Connection, event_ids: Collection[str], now: float, sinks: Collection[str] | None = None
) -> list[str]:
    """Queue the held deliveries of these events that no longer wait, page by page. Returns their sinks.

    `sinks`: existing sinks; None if unknown.
    """
    released: set[str] = set()
    last, more = ("", ""), bool(event_ids)
    while more:
        given = {"b_events": sorted(set(event_ids)), "b_event": last[0], "b_id": last[1], "b_page": PAGE}
        if held := connection.execute(_HELD_OF_EVENTS, given).all():
            released |= _release(connection, held, now, sinks)
            last = held[-1].event_id, held[-1].id
        more = len(held) == PAGE
    return sorted(released)


def _release(connection: sa.Connection, held: Sequence[Any], now: float, sinks: Collection[str] | None) -> set[str]:
    """Queue those of these locked, held deliveries that no longer wait. Returns their sinks."""
    wanted = {row.id: [each for each in json.loads(row.after) if sinks is None or each in sinks] for row in held}
    mine = dialect.among(deliveries.c.event_id, sorted({row.event_id for row in held}))
    its = sa.select(deliveries.c.event_id, deliveries.c.sink, deliveries.c.state).where(mine)
    own = _open(connection.execute(its))
    elsewhere = {row.event_id for row in held if set(wanted[row.id]) - own[row.event_id].keys()}
    before = _open(_earlier(connection, elsewhere))

    def waits(row: Any) -> bool:
        there = {**before[row.event_id], **own[row.event_id]}
        return any(there.get(sink) for sink in wanted[row.id])

    ready = [row for row in held if not waits(row)]
    if ready:  # they are locked, and held
        released = sa.update(deliveries).where(dialect.among(deliveries.c.id, [row.id for row in ready]))
        connection.execute(released.values(state=state_after(DeliveryMove.RELEASE), due_at=now, updated_at=now))
    return {row.sink for row in ready}


def _open(rows: Iterable[Any]) -> defaultdict[str, dict[str, bool]]:
    """Return by event and sink whether a delivery is pending."""
    found: defaultdict[str, dict[str, bool]] = defaultdict(dict)
    for row in rows:
        its = found[row.event_id]
        its[row.sink] = its.get(row.sink, False) or DeliveryState(row.state) not in ENDED
    return found


def receipts(connection: sa.Connection, event_id: str, sinks: Collection[str]) -> dict[str, dict[str, Any] | None]:
    """Return the receipts of `sinks` for the event; None for a sink without a receipt.

    A sink without a delivery of the event contributes its newest receipt for the result that the event updates.
    """
    query = (
        sa.select(deliveries.c.sink, deliveries.c.state, attempts.c.receipt)
        .select_from(events)
        .join(deliveries, deliveries.c.event_id == events.c.id)
        .outerjoin(attempts, _ACCEPTED)
        .where(events.c.id == event_id, deliveries.c.sink.in_(sinks))
        .order_by(attempts.c.number)
    )
    rows: Sequence[Any] = connection.execute(query).all()
    found: dict[str, dict[str, Any] | None] = dict.fromkeys(sinks)
    if elsewhere := set(sinks) - {row.sink for row in rows}:
        rows = [*(row for row in _earlier(connection, [event_id]) if row.sink in elsewhere), *rows]
    for row in rows:
        if row.receipt and row.state == DeliveryState.DELIVERED:
            found[row.sink] = json.loads(row.receipt)
    return found


def _earlier(connection: sa.Connection, event_ids: Collection[str]) -> Sequence[Any]:
    """Return the deliveries of earlier events with the same results, the newest last.

    Each has the id of the later event, sink, state, and receipt if any."""
    if not event_ids:
        return []
    later = events.alias("later")
    query = (
        sa.select(later.c.id.label("event_id"), deliveries.c.sink, deliveries.c.state, attempts.c.receipt)
        .select_from(later)
        .join(events, same(events, later))
        .join(deliveries, deliveries.c.event_id == events.c.id)
        .outerjoin(attempts, _ACCEPTED)
        .where(
            later.c.id.in_(event_ids),
            later.c.run_id != "",
            events.c.seq < later.c.seq,
        )
        .order_by(events.c.seq, attempts.c.number)
    )
    return connection.execute(query).all()
