"""Resend and cancel deliveries for operators and callers.

A resent delivery keeps its idempotency key. A run's newest event can be sent to its caller once more."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove, DeliveryState, state_after, states_before
from receiver.ledger import dialect
from receiver.ledger.deliveries import creation, links
from receiver.ledger.deliveries.creation import AddedDelivery
from receiver.ledger.runs import RunStatus
from receiver.ledger.schema import attempts, deliveries

# The start of the reason of deliveries cancelled by id, and of those cancelled by filter, which are replayed together.
ALONE: Final = "cancelled by an operator"
TOGETHER: Final = "cancelled by an operator, with"


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """A delivery with its newest attempt. `number`: 0 without an attempt. `outcome`, `reason`, `note`: of that attempt.

    Times are seconds since the epoch."""

    state: DeliveryState
    number: int = 0
    outcome: str = ""
    reason: str = ""
    note: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0


def queue_again(connection: sa.Connection, condition: sa.ColumnElement[bool], now: float) -> Sequence[Any]:
    """Queue the deliveries that meet the condition and have ended or wait for their next attempt.

    Ended ones get all attempts again, waiting ones keep their count. A cancelled one is held while a sink that it waits
    for is pending. Returns the sink, lane and event of each.
    """
    it = deliveries.c
    fresh = {"spent": 0, "tried_at": None, "reason": ""}
    moved: dict[DeliveryMove, Sequence[Any]] = {}
    for move in (DeliveryMove.REPLAY, DeliveryMove.DUE, DeliveryMove.RESTORE):
        moved[move] = connection.execute(
            sa.update(deliveries)
            .where(condition, it.state.in_(states_before(move)))
            .values(state=state_after(move), due_at=now, updated_at=now, **({} if move is DeliveryMove.DUE else fresh))
            .returning(it.sink, it.lane, it.event_id)
        ).all()
    links.release_held(connection, {row.event_id for row in moved[DeliveryMove.RESTORE]}, now)
    return [row for rows in moved.values() for row in rows]


def resend(
    connection: sa.Connection,
    run: RunStatus,
    sink: str,
    route: str,
    lane: str,
    now: float,
    address: str,
    key_id: str,
) -> tuple[str, DeliveryStatus]:
    """Queue the newest event of the run for `sink` now. Returns the delivery's id, and its previous status.

    `address`: another address than the submission's, given with the key `key_id`, which signs for it; each such pair
    has a separate delivery. Skips a delivery that is queued, being sent, or cancelled by an operator.
    """
    its = (run.event_id, run.source, run.run_id, sink, route, lane)
    new = AddedDelivery(*its, address=address, key_id=key_id)
    if creation.add(connection, new, now):
        return new.id, DeliveryStatus(DeliveryState.QUEUED)
    queue_again(connection, sa.and_(deliveries.c.id == new.id, deliveries.c.state != DeliveryState.CANCELLED), now)
    return new.id, statuses(connection, [new.id])[new.id]


def statuses(connection: sa.Connection, ids: Collection[str]) -> dict[str, DeliveryStatus]:
    """Return the status of each existing one of these deliveries."""
    rows = connection.execute(
        sa.select(deliveries.c.id, deliveries.c.state, attempts)
        .outerjoin(attempts, attempts.c.delivery_id == deliveries.c.id)
        .where(dialect.among(deliveries.c.id, list(ids)))
        .order_by(attempts.c.number)
    )
    found: dict[str, DeliveryStatus] = {}
    for row in rows:  # the newest attempt comes last
        state = DeliveryState(row.state)
        found[row.id] = DeliveryStatus(state)
        if row.number is not None:
            note = json.loads(row.receipt).get("note", "") if row.receipt else ""
            newest = (row.number, row.outcome, row.reason, note, row.started_at, row.ended_at)
            found[row.id] = DeliveryStatus(state, *newest)
    return found


def target_of(connection: sa.Connection, delivery: str) -> tuple[str, str]:
    """Return the address that this delivery goes to instead of its submission's, or "", and the id of its API key.

    The id is "" for an address that was given before keys were recorded."""
    query = sa.select(deliveries.c.target, deliveries.c.target_key).where(deliveries.c.id == delivery)
    row = connection.execute(query).first()
    return (row.target, row.target_key) if row is not None else ("", "")


def cancel(connection: sa.Connection, ids: Sequence[str], reason: str, now: float) -> list[str]:
    """Cancel these deliveries, except those being sent or ended. Returns the ids of cancelled ones."""
    changed = (
        sa.update(deliveries)
        .where(deliveries.c.id.in_(ids), deliveries.c.state.in_(states_before(DeliveryMove.CANCEL)))
        .values(state=state_after(DeliveryMove.CANCEL), reason=reason, updated_at=now)
        .returning(deliveries.c.id, deliveries.c.event_id)
    )
    rows = connection.execute(changed).all()
    links.release_held(connection, {row.event_id for row in rows}, now)
    return [row.id for row in rows]
