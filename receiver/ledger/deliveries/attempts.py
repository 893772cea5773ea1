"""The results of attempts in the ledger: their rows, the states of deliveries, and which held ones are released by an
end. Sends nothing.

Each UPDATE names the claim, so a worker whose claim has lapsed changes nothing.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove, state_after, states_before
from receiver.ledger import bulk
from receiver.ledger.deliveries import links
from receiver.ledger.deliveries.claimed import UNCLAIMED, Claimed
from receiver.ledger.schema import attempts, deliveries


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """The result of one attempt. `move`: ACCEPT, DEFER, DIE or LAPSE. `outcome`: the word in the attempts table. Times
    are seconds since the epoch, `retry_after` is seconds."""

    id: str
    attempt_number: int
    move: DeliveryMove
    outcome: str
    reason: str
    started_at: float
    ended_at: float
    due_at: float = 0.0
    spends: bool = True
    receipt: Mapping[str, Any] | None = None
    retry_after: float | None = None
    tried_at: float | None = None  # since when the delivery's time counts; None: since this attempt began


def settle(
    connection: sa.Connection, owner: str, results: Mapping[int, Sequence[AttemptResult]], now: float
) -> list[str]:
    """Settle deliveries that `owner` claimed, by claim number. Returns the sinks whose held deliveries this released.

    An attempt is recorded even when the claim has lapsed meanwhile; the delivery then stays as its new owner has it.
    """
    record(connection, [(owner, each) for each in itertools.chain(*results.values())])
    ended: list[str] = []
    for claim_number, of_claim in sorted(results.items()):
        accepted = [each.id for each in of_claim if each.move is DeliveryMove.ACCEPT]
        if accepted:
            ended += _move(connection, accepted, owner, claim_number, DeliveryMove.ACCEPT, "", now)
        for each in sorted(of_claim, key=lambda each: each.id):
            if each.move is not DeliveryMove.ACCEPT:
                values: dict[str, Any] = {"due_at": each.due_at}
                if each.move is DeliveryMove.DEFER:
                    values["tried_at"] = each.started_at if each.tried_at is None else each.tried_at
                if each.spends:
                    values["spent"] = deliveries.c.spent + 1
                moved = _move(connection, [each.id], owner, claim_number, each.move, each.reason, now, values)
                if each.move is DeliveryMove.DIE:
                    ended += moved
    return _release_held(connection, ended, now)


def record(connection: sa.Connection, results: Sequence[tuple[str, AttemptResult]]) -> None:
    """Record attempts, each with the worker that made it. One that is there already stays."""
    rows = [
        {
            "delivery_id": each.id,
            "number": each.attempt_number,
            "outcome": each.outcome,
            "reason": each.reason,
            "receipt": json.dumps(each.receipt) if each.receipt is not None else None,
            "retry_after": each.retry_after,
            "started_at": each.started_at,
            "ended_at": each.ended_at,
            "worker": worker,
        }
        for worker, each in sorted(results, key=lambda each: each[1].id)
    ]
    _insert(connection, rows)


_insert: Final = bulk.Insert(attempts, lambda insert: insert.on_conflict_do_nothing())


def give_up(
    connection: sa.Connection, owner: str, claim_number: int, ids: Sequence[str], reason: str, now: float
) -> None:
    """End claimed deliveries as dead, unsent. The claim was no attempt."""
    changes = {"attempts": deliveries.c.attempts - 1}
    _release_held(connection, _move(connection, ids, owner, claim_number, DeliveryMove.DIE, reason, now, changes), now)


def _move(
    connection: sa.Connection,
    ids: Sequence[str],
    owner: str,
    claim_number: int,
    move: DeliveryMove,
    reason: str,
    now: float,
    changes: Mapping[str, Any] = {},
) -> list[str]:
    """Move those of the deliveries that are still the claim's. Returns those of their events that have held ones."""
    statement = _moving(connection.dialect.name == "postgresql", move)
    given = {"b_ids": sorted(ids), "b_owner": owner, "b_number": claim_number, "b_reason": reason, "b_now": now}
    moved = connection.execute(statement.values(changes) if changes else statement, given)
    return [event_id for event_id, has_held in moved if has_held]


@functools.cache
def _moving(on_postgresql: bool, move: DeliveryMove) -> Any:
    """Return the statement of a move, which is built once: that costs more than to run it for one delivery."""
    it, held = deliveries.c, deliveries.alias("held")
    claimed = sa.and_(it.claim_owner == sa.bindparam("b_owner"), it.claim_number == sa.bindparam("b_number"))
    return (
        sa.update(deliveries)
        .where(bulk.among_given(on_postgresql, it.id, "b_ids"), claimed, it.state.in_(states_before(move)))
        .values(state=state_after(move), reason=sa.bindparam("b_reason"), updated_at=sa.bindparam("b_now"), **UNCLAIMED)
        .returning(it.event_id, sa.exists().where(links.held(held), held.c.event_id == it.event_id))
    )


def _release_held(connection: sa.Connection, event_ids: Sequence[str], now: float) -> list[str]:
    """Queue the held deliveries of these events that wait for nothing any more. Returns their sinks."""
    if not event_ids:
        return []
    return links.release_held(connection, bulk.among(connection, deliveries.c.event_id, sorted(set(event_ids))), now)


def poisoned(connection: sa.Connection, claimed: Sequence[Claimed], budget: int) -> list[Claimed]:
    """Return those that have no attempt left of `budget`, and whose last one lapsed: they may be what kills workers."""
    spent = {each.id: each for each in claimed if each.spent >= budget}
    if not spent:
        return []
    lapsed = connection.execute(
        sa.select(attempts.c.delivery_id, attempts.c.number).where(
            bulk.among(connection, attempts.c.delivery_id, sorted(spent)), attempts.c.outcome == "lapsed"
        )
    )
    return [spent[row.delivery_id] for row in lapsed if row.number == spent[row.delivery_id].attempt_number - 1]
