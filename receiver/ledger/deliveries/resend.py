"""Resend, cancel and restore deliveries for operators and callers.

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

# The start of the reason of deliveries cancelled by id, and of those cancelled by filter, which are restored together.
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

    Ended ones get all attempts again, waiting ones keep their count. Returns the sink and lane of each."""
    moved: list[Any] = []
    for move, fresh in ((DeliveryMove.REPLAY, {"spent": 0, "tried_at": None, "reason": ""}), (DeliveryMove.DUE, {})):
        moved += connection.execute(
            sa.update(deliveries)
            .where(condition, deliveries.c.state.in_(states_before(move)))
            .values(state=state_after(move), due_at=now, updated_at=now, **fresh)
            .returning(deliveries.c.sink, deliveries.c.lane)
        )
    return moved


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
    queue_again(connection, deliveries.c.id == new.id, now)
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


def restore(connection: sa.Connection, ids: Sequence[str], now: float) -> list[str]:
    """Restore those of these deliveries that are cancelled: due now, or held if a sink that they wait for is pending.

    Restored deliveries have no attempt spent. Returns their ids.
    """
    before = states_before(DeliveryMove.RESTORE)
    its = sa.select(deliveries.c.id, deliveries.c.event_id)
    its = its.where(deliveries.c.id.in_(ids), deliveries.c.state.in_(before)).order_by(deliveries.c.id)
    cancelled = connection.execute(its).all()
    if not cancelled:
        return []
    found = [row.id for row in cancelled]
    fresh: dict[str, Any] = {"spent": 0, "tried_at": None, "reason": "", "due_at": now, "updated_at": now}
    restored = sa.update(deliveries).where(deliveries.c.id.in_(found), deliveries.c.state.in_(before))
    connection.execute(restored.values(state=state_after(DeliveryMove.RESTORE), **fresh))
    links.release_held(connection, {row.event_id for row in cancelled}, now)
    return found
