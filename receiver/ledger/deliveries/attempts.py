"""The results of attempts in the ledger: their rows, the states of deliveries, and which held ones are released by an
end. Sends nothing.

Each UPDATE names the claim, so a worker whose claim has lapsed changes nothing.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson
import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove, state_after
from receiver.ledger import bulk, statements
from receiver.ledger.attempts_by_delivery import of_delivery
from receiver.ledger.deliveries import claims, links
from receiver.ledger.deliveries.claimed import UNCLAIMED, Claimed, given_claims, may_move, of_claim, of_claims
from receiver.ledger.schema import attempts, deliveries
from receiver.ledger.statements import BoundStatement, BuiltStatement, StatementForm


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


def settling(
    connection: sa.Connection,
    owner: str,
    results: Mapping[int, Sequence[AttemptResult]],
    now: float,
    started: Mapping[str, int] = {},
) -> list[BoundStatement]:
    """Return what settles deliveries that `owner` claimed, by claim number, and gives those that have `started` (id →
    claim number) the slots that this frees. See `to_release` for the rows.

    An attempt is recorded even when the claim has lapsed meanwhile; the delivery then stays as its new owner has it.
    """
    attempted = [(owner, each) for each in itertools.chain(*results.values())]
    if not attempted:
        return []
    ended = {each.event_id for _, each in attempted if each.move is not DeliveryMove.DEFER}
    return [
        _recorded(connection, attempted),
        *_moves(owner, results, now),
        *claims.taking_slots(owner, started),
        _held_of.with_values(b_event_ids=sorted(ended)),
    ]


def to_release(answers: Sequence[Sequence[Any]]) -> list[str]:
    """Return the events whose held deliveries may wait for nothing any more, by the rows of each statement of
    `settling`; see `release_held`."""
    return sorted({row.event_id for row in answers[-1]}) if answers else []


def record(connection: sa.Connection, results: Sequence[tuple[str, AttemptResult]]) -> None:
    """Record attempts, each with the worker that made it. One that is there already stays."""
    if results:
        statements.run(connection, _recorded(connection, results))


def _recorded(connection: sa.Connection, results: Sequence[tuple[str, AttemptResult]]) -> BoundStatement:
    ordered = sorted(results, key=lambda each: each[1].id)
    found = dict(zip(AttemptResult._fields, zip(*[each for _, each in ordered], strict=True), strict=True))
    return _insert.of_columns(
        connection,
        {
            "delivery_id": list(found["id"]),
            "number": list(found["attempt_number"]),
            "outcome": list(found["outcome"]),
            "reason": list(found["reason"]),
            "receipt": [*map(_receipt_text, found["receipt"])],
            "retry_after": list(found["retry_after"]),
            "started_at": list(found["started_at"]),
            "ended_at": list(found["ended_at"]),
            "worker": [worker for worker, _ in ordered],
            "delivery_created_at": list(found["created_at"]),
        },
    )


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


# Most are accepted, and those of a batch are sent at once.
_insert: Final = bulk.Insert(
    attempts,
    lambda insert: insert.on_conflict_do_nothing(),
    uniform_levels=(
        (),
        ("outcome", "reason", "retry_after", "worker"),
        ("number", "started_at", "ended_at", "delivery_created_at"),
    ),
)


def give_up(
    connection: sa.Connection, owner: str, claim_number: int, claimed: Sequence[Claimed], reason: str, now: float
) -> None:
    """End claimed deliveries as dead, unsent. The claim was no attempt."""
    ids, event_ids = sorted(each.id for each in claimed), sorted({each.event_id for each in claimed})
    given = {"b_ids": ids, "b_owner": owner, "b_number": claim_number, "b_reason": reason, "b_now": now}
    died = _moving(DeliveryMove.DIE).with_values(b_due_at=None, b_spends=0, b_attempts=-1, **given)
    _, rows = statements.run(connection, died, _held_of.with_values(b_event_ids=event_ids))
    release_held(connection, [row.event_id for row in rows], now)


def _moves(owner: str, results: Mapping[int, Sequence[AttemptResult]], now: float) -> Iterator[BoundStatement]:
    """Yield what moves those of the deliveries that are still of their claim: all that were accepted at once."""
    by_claim = sorted(results.items())
    accepted = [(each.id, number) for number, of in by_claim for each in of if each.move is DeliveryMove.ACCEPT]
    numbers = {number for _, number in accepted}
    if len(numbers) == 1:
        ids = sorted(delivery for delivery, _ in accepted)
        yield _accepting_claim.with_values(b_ids=ids, b_owner=owner, b_number=numbers.pop(), b_reason="", b_now=now)
    elif accepted:
        yield _accepting.with_values(**given_claims(owner, accepted), b_reason="", b_now=now)
    for number, of in by_claim:
        for each in sorted(of, key=lambda each: each.id):
            if each.move is not DeliveryMove.ACCEPT:
                values: dict[str, Any] = {"b_due_at": each.due_at, "b_spends": int(each.spends), "b_attempts": 0}
                if each.move is DeliveryMove.DEFER:
                    values["b_tried_at"] = each.started_at if each.tried_at is None else each.tried_at
                claim = {"b_owner": owner, "b_number": number}
                yield _moving(each.move).with_values(
                    b_ids=[each.id], b_reason=each.reason, b_now=now, **values, **claim
                )


def _changing(move: DeliveryMove, condition: sa.ColumnElement[bool], **changes: Any) -> Any:
    """Return the statement that moves those of the deliveries that are in a state from which they may be."""
    changes |= {"reason": sa.bindparam("b_reason"), "updated_at": sa.bindparam("b_now"), **UNCLAIMED}
    return sa.update(deliveries).where(condition, may_move(move)).values(state=state_after(move), **changes)


def _of_claim(form: StatementForm) -> sa.ColumnElement[bool]:
    return sa.and_(bulk.among_given(form, deliveries.c.id, "b_ids"), of_claim())


# Of one claim, and of any number.
_accepting_claim: Final = BuiltStatement(lambda form: _changing(DeliveryMove.ACCEPT, _of_claim(form)))
_accepting: Final = BuiltStatement(lambda form: _changing(DeliveryMove.ACCEPT, of_claims(form)))


@functools.cache
def _moving(move: DeliveryMove) -> BuiltStatement:
    """Return the statement of any other move, for deliveries of one claim."""
    it = deliveries.c
    changes: dict[str, Any] = {
        "due_at": sa.func.coalesce(sa.bindparam("b_due_at", type_=it.due_at.type), it.due_at),
        "spent": it.spent + sa.bindparam("b_spends", type_=it.spent.type),
        "attempts": it.attempts + sa.bindparam("b_attempts", type_=it.attempts.type),
    }
    if move is DeliveryMove.DEFER:
        changes["tried_at"] = sa.bindparam("b_tried_at", type_=it.tried_at.type)
    return BuiltStatement(lambda form: _changing(move, _of_claim(form), **changes))


# Which of these events have held deliveries. Whether what these wait for has ended, `links.release_held` finds out.
_held_of: Final = BuiltStatement(
    lambda form: sa.select(deliveries.c.event_id).where(
        links.HELD, bulk.among_given(form, deliveries.c.event_id, "b_event_ids")
    )
)


def release_held(connection: sa.Connection, event_ids: Sequence[str], now: float) -> list[str]:
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
        sa.select(attempts.c.delivery_id, attempts.c.number)
        .join(deliveries, of_delivery())
        .where(bulk.among(connection, deliveries.c.id, sorted(spent)), attempts.c.outcome == "lapsed")
    )
    return [spent[row.delivery_id] for row in lapsed if row.number == spent[row.delivery_id].attempt_number - 1]
