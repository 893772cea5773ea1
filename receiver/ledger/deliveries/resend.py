"""One delivery of a run's newest event to its caller, sent again now: on the same delivery, so under the same key.

What a caller asks for one run is one transaction, and no operation that the clock works off step by step.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove, DeliveryState, sources, target
from receiver.domain.event import delivery_id
from receiver.ledger import bulk
from receiver.ledger.events import insert_deliveries
from receiver.ledger.runs import RunStatus
from receiver.ledger.schema import attempts, deliveries


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """A delivery with its newest attempt. `number` 0: there was none. `outcome`, `reason`, `note`: of that attempt;
    times in seconds since the epoch."""

    state: DeliveryState
    number: int = 0
    outcome: str = ""
    reason: str = ""
    note: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0


def resend(
    connection: sa.Connection, standing: RunStatus, sink: str, route: str, lane: str, now: float, elsewhere: str = ""
) -> tuple[str, DeliveryStatus]:
    """Have the newest event of the run sent to `sink` now. Returns the delivery's id, and how it stood before.

    `elsewhere`: an address that is not the submission's own; it has a delivery, and so a key, of its own. What is on
    its way already is left alone, and so is what an operator cancelled.
    """
    wanted = delivery_id(standing.event_id, f"{sink} {elsewhere}" if elsewhere else sink)
    row = {
        "id": wanted,
        "event_id": standing.event_id,
        "sink": sink,
        "lane": lane,
        "route": route,
        "source": standing.source,
        "run_id": standing.run_id,
        "after": "[]",
        "state": DeliveryState.QUEUED,
        "due_at": now,
        "created_at": now,
        "updated_at": now,
        "target": elsewhere,
    }
    if insert_deliveries(connection, [row]):
        return wanted, DeliveryStatus(DeliveryState.QUEUED)
    for move, fresh in ((DeliveryMove.REPLAY, {"spent": 0, "reason": ""}), (DeliveryMove.DUE, {})):
        connection.execute(
            sa.update(deliveries)
            .where(deliveries.c.id == wanted, deliveries.c.state.in_(sources(move)))
            .values(state=target(move), due_at=now, updated_at=now, **fresh)
        )
    return wanted, statuses(connection, [wanted])[wanted]


def statuses(connection: sa.Connection, ids: Collection[str]) -> dict[str, DeliveryStatus]:
    """How these deliveries stand, each with its newest attempt."""
    found = {
        row.id: DeliveryStatus(DeliveryState(row.state))
        for row in connection.execute(
            sa.select(deliveries.c.id, deliveries.c.state).where(bulk.among(connection, deliveries.c.id, list(ids)))
        )
    }
    made = connection.execute(
        sa.select(attempts)
        .where(bulk.among(connection, attempts.c.delivery_id, list(ids)))
        .order_by(attempts.c.delivery_id, attempts.c.number)
    )
    for row in made:
        if row.delivery_id in found:
            note = json.loads(row.receipt).get("note", "") if row.receipt else ""
            found[row.delivery_id] = DeliveryStatus(
                found[row.delivery_id].state,
                row.number,
                row.outcome,
                row.reason,
                note,
                row.started_at,
                row.ended_at,
            )
    return found


def target_of(connection: sa.Connection, delivery: str) -> str:
    """The address that this delivery goes to instead of its submission's own, or ""."""
    return connection.execute(sa.select(deliveries.c.target).where(deliveries.c.id == delivery)).scalar() or ""
