"""The results of attempts in the ledger: their rows, the states of deliveries, and which held ones are released by an
end. Sends nothing.

Each UPDATE names the claim, so a worker whose claim has lapsed changes nothing.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson
import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove, state_after
from receiver.ledger import dialect
from receiver.ledger.attempts_by_delivery import of_delivery
from receiver.ledger.deliveries import claims, links
from receiver.ledger.deliveries.claimed import UNCLAIMED, Claimed, given_claims, may_move, of_claim, of_claims
from receiver.ledger.schema import attempts, deliveries


class AttemptResult(NamedTuple):
    """The result of one attempt: a tuple, for each delivery makes one. `event_id`, `created_at`: of its delivery.
    `move`: ACCEPT, DEFER, DIE or LAPSE. `outcome`: the word in the attempts table. Times are seconds since the epoch,
    `retry_after` is seconds."""

    id: str
    event_id: str
    created_at: float
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
    connection: sa.Connection,
    owner: str,
    results: Mapping[int, Sequence[AttemptResult]],
    now: float,
    started: Mapping[str, int] = {},
) -> list[str]:
    """Settle deliveries that `owner` claimed, by claim number, and give those that have `started` (id → claim number)
    the slots that this frees. Returns the events whose held deliveries may wait for nothing any more.

    An attempt is recorded even when the claim has lapsed meanwhile; the delivery then stays as its new owner has it.
    """
    attempted = [(owner, each) for each in itertools.chain(*results.values())]
    if not attempted:
        return []
    record(connection, attempted)
    _move(connection, owner, results, now)
    claims.take_slots(connection, owner, started)
    return _with_held(connection, {each.event_id for _, each in attempted if each.move is not DeliveryMove.DEFER})


def record(connection: sa.Connection, results: Sequence[tuple[str, AttemptResult]]) -> None:
    """Record attempts, each with the worker that made it. One that is there already stays."""
    rows = [
        {
            "delivery_id": each.id,
            "number": each.attempt_number,
            "outcome": each.outcome,
            "reason": each.reason,
            "receipt": _receipt_text(each.receipt),
            "retry_after": each.retry_after,
            "started_at": each.started_at,
            "ended_at": each.ended_at,
            "worker": worker,
            "delivery_created_at": each.created_at,
        }
        for worker, each in sorted(results, key=lambda result: result[1].id)
    ]
    dialect.insert_many(connection, attempts, rows, dialect.do_nothing)


def _receipt_text(receipt: Mapping[str, Any] | None) -> str | None:
    if receipt is None:
        return None
    try:
        return orjson.dumps(receipt).decode()
    except TypeError:  # such as half a character in a sink's text, or what is no text
        pass
    try:
        return json.dumps(receipt, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        return json.dumps({"note": f"{type(error).__name__} in the sink's receipt"})


def give_up(
    connection: sa.Connection, owner: str, claim_number: int, claimed: Sequence[Claimed], reason: str, now: float
) -> None:
    """End claimed deliveries as dead, unsent. The claim was no attempt."""
    given = {"b_ids": sorted(each.id for each in claimed), "b_owner": owner, "b_number": claim_number}
    given |= {"b_reason": reason, "b_now": now, "b_due_at": None, "b_spends": 0, "b_attempts": -1}
    connection.execute(_moving(DeliveryMove.DIE), given)
    release_held(connection, _with_held(connection, {each.event_id for each in claimed}), now)


def _move(connection: sa.Connection, owner: str, results: Mapping[int, Sequence[AttemptResult]], now: float) -> None:
    """Move those of the deliveries that are still of their claim: all that were accepted at once."""
    moved = sorted(((each, number) for number, of in results.items() for each in of), key=lambda it: it[0].id)
    accepted = [(each.id, number) for each, number in moved if each.move is DeliveryMove.ACCEPT]
    if accepted:
        connection.execute(_ACCEPT, {**given_claims(owner, accepted), "b_reason": "", "b_now": now})
    for each, number in moved:
        if each.move is DeliveryMove.ACCEPT:
            continue
        values: dict[str, Any] = {"b_due_at": each.due_at, "b_spends": int(each.spends), "b_attempts": 0}
        if each.move is DeliveryMove.DEFER:
            values["b_tried_at"] = each.started_at if each.tried_at is None else each.tried_at
        claim = {"b_ids": [each.id], "b_owner": owner, "b_number": number}
        connection.execute(_moving(each.move), {**claim, **values, "b_reason": each.reason, "b_now": now})


def _changing(move: DeliveryMove, condition: sa.ColumnElement[bool], **changes: Any) -> sa.Update:
    """Return the statement that moves those of the deliveries that are in a state from which they may be."""
    changes |= {"reason": sa.bindparam("b_reason"), "updated_at": sa.bindparam("b_now"), **UNCLAIMED}
    return sa.update(deliveries).where(condition, may_move(move)).values(state=state_after(move), **changes)


_ACCEPT: Final = _changing(DeliveryMove.ACCEPT, of_claims())


@functools.cache
def _moving(move: DeliveryMove) -> sa.Update:
    """Return the statement of any other move, for deliveries of one claim."""
    it = deliveries.c
    changes: dict[str, Any] = {
        "due_at": sa.func.coalesce(sa.bindparam("b_due_at", type_=it.due_at.type), it.due_at),
        "spent": it.spent + sa.bindparam("b_spends", type_=it.spent.type),
        "attempts": it.attempts + sa.bindparam("b_attempts", type_=it.attempts.type),
    }
    if move is DeliveryMove.DEFER:
        changes["tried_at"] = sa.bindparam("b_tried_at", type_=it.tried_at.type)
    return _changing(move, sa.and_(dialect.among_given(it.id, "b_ids"), of_claim()), **changes)


def _with_held(connection: sa.Connection, event_ids: Collection[str]) -> list[str]:
    """Return those of these events that have held deliveries. Whether what these wait for has ended, `release_held`
    finds out."""
    if not event_ids:
        return []
    return sorted(set(connection.execute(_HELD_OF, {"b_event_ids": sorted(event_ids)}).scalars()))


_HELD_OF: Final = sa.select(deliveries.c.event_id).where(
    links.HELD, dialect.among_given(deliveries.c.event_id, "b_event_ids")
)


def release_held(connection: sa.Connection, event_ids: Sequence[str], now: float) -> list[str]:
    """Queue the held deliveries of these events that wait for nothing any more. Returns their sinks."""
    if not event_ids:
        return []
    return links.release_held(connection, dialect.among(deliveries.c.event_id, sorted(set(event_ids))), now)


def poisoned(connection: sa.Connection, claimed: Sequence[Claimed], budget: int) -> list[Claimed]:
    """Return those that have no attempt left of `budget`, and whose last one lapsed: they may be what kills workers."""
    spent = {each.id: each for each in claimed if each.spent >= budget}
    if not spent:
        return []
    lapsed = connection.execute(
        sa.select(attempts.c.delivery_id, attempts.c.number)
        .join(deliveries, of_delivery())
        .where(dialect.among(deliveries.c.id, sorted(spent)), attempts.c.outcome == "lapsed")
    )
    return [spent[row.delivery_id] for row in lapsed if row.number == spent[row.delivery_id].attempt_number - 1]
