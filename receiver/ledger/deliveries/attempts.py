"""What became of deliveries, in the ledger: attempts, states, and who is released by an end. Sends nothing.

Each UPDATE says the claim that it believes in, so that a worker that overslept its claim changes nothing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from receiver.domain.delivery import ENDED, DeliveryMove, DeliveryState, sources, target
from receiver.ledger import bulk
from receiver.ledger.deliveries.claims import both
from receiver.ledger.schema import attempts, deliveries


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of one attempt. `move` is ACCEPT, DEFER or DIE; `outcome` is the word for the attempts table."""

    id: str
    number: int
    move: DeliveryMove
    outcome: str
    reason: str
    started_at: float
    ended_at: float
    due_at: float = 0.0
    spends: bool = True
    receipt: Mapping[str, Any] | None = None
    retry_after: float | None = None


def settle(connection: sa.Connection, results: Mapping[str, Sequence[Settled]], worker: str, now: float) -> list[str]:
    """Write down what became of claimed deliveries, by claim. Returns the sinks whose held deliveries this released.

    An attempt is recorded even when the claim has lapsed meanwhile; the delivery then stays as its new owner has it.
    """
    rows = [
        {
            "delivery_id": each.id,
            "number": each.number,
            "outcome": each.outcome,
            "reason": each.reason,
            "receipt": json.dumps(each.receipt) if each.receipt is not None else None,
            "retry_after": each.retry_after,
            "started_at": each.started_at,
            "ended_at": each.ended_at,
            "worker": worker,
        }
        for each in sorted(itertools.chain(*results.values()), key=lambda each: each.id)
    ]
    bulk.insert(connection, attempts, rows, lambda insert: insert.on_conflict_do_nothing(), [attempts.c.number])
    ended: list[str] = []
    for token, settled in sorted(results.items()):
        accepted = sorted(each.id for each in settled if each.move is DeliveryMove.ACCEPT)
        if accepted:
            ended += _move(connection, accepted, token, DeliveryMove.ACCEPT, {"reason": ""}, now)
        for each in sorted(settled, key=lambda each: each.id):
            if each.move is not DeliveryMove.ACCEPT:
                values: dict[str, Any] = {"reason": each.reason, "due_at": each.due_at}
                if each.spends:
                    values["spent"] = deliveries.c.spent + 1
                moved = _move(connection, [each.id], token, each.move, values, now)
                if each.move is DeliveryMove.DIE:
                    ended += moved
    return _release_held(connection, ended, now) if ended else []


def give_up(connection: sa.Connection, token: str, ids: Sequence[str], reason: str, now: float) -> None:
    """What was claimed, and is not to be sent any more, is dead. This was no attempt."""
    changes = {"reason": reason, "attempts": deliveries.c.attempts - 1}
    ended = _move(connection, sorted(ids), token, DeliveryMove.DIE, changes, now)
    if ended:
        _release_held(connection, ended, now)


def _move(
    connection: sa.Connection, ids: Sequence[str], token: str, move: DeliveryMove, values: dict[str, Any], now: float
) -> list[str]:
    statement = (
        sa.update(deliveries)
        .where(
            bulk.among(connection, deliveries.c.id, ids),
            deliveries.c.claim.in_(both([token])),
            deliveries.c.state.in_(sources(move)),
        )
        .values(state=target(move), claim="", claim_until=None, updated_at=now, **values)
        .returning(deliveries.c.id)
    )
    return list(connection.execute(statement).scalars())


def _release_held(connection: sa.Connection, ended: Sequence[str], now: float) -> list[str]:
    """Queue the held deliveries of the same events whose sinks have all ended. Returns their sinks."""
    of_events = sa.select(deliveries.c.event_id).where(bulk.among(connection, deliveries.c.id, ended))
    return release_held(connection, deliveries.c.event_id.in_(of_events), now)


def release_held(connection: sa.Connection, condition: sa.ColumnElement[bool], now: float) -> list[str]:
    """Queue each held delivery that meets `condition` and waits for nothing any more. Returns their sinks."""
    held = connection.execute(
        sa.select(deliveries.c.id, deliveries.c.event_id, deliveries.c.sink, deliveries.c.after)
        .where(deliveries.c.state == sa.literal_column(f"'{DeliveryState.HELD}'"), condition)
        .order_by(deliveries.c.id)
        .limit(500)
    ).all()
    if not held:
        return []
    open_sinks: dict[str, set[str]] = {}
    for event_id, sink in connection.execute(
        sa.select(deliveries.c.event_id, deliveries.c.sink).where(
            deliveries.c.event_id.in_({row.event_id for row in held}),
            deliveries.c.state.not_in([state.value for state in ENDED]),
        )
    ):
        open_sinks.setdefault(event_id, set()).add(sink)
    ready = [row for row in held if not open_sinks.get(row.event_id, set()) & set(json.loads(row.after))]
    if ready:
        connection.execute(
            sa.update(deliveries)
            .where(deliveries.c.id.in_([row.id for row in ready]), deliveries.c.state == DeliveryState.HELD)
            .values(state=target(DeliveryMove.RELEASE), due_at=now, updated_at=now)
        )
    return sorted({row.sink for row in ready})
