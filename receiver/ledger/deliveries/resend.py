"""Send a run's newest event to its caller once more, and show what came of it."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryState
from receiver.ledger.database import dialect
from receiver.ledger.deliveries import creation
from receiver.ledger.deliveries.creation import AddedDelivery
from receiver.ledger.runs import RunStatus
from receiver.ledger.schema import attempts, deliveries
from receiver.ledger.verbs import queue_again


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
