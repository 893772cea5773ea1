"""Settle claimed deliveries: record their attempts, move them, and queue the held ones that waited for them.

Each UPDATE names the claim, so a worker whose claim has lapsed changes nothing, with one exception: what its sink
accepted is delivered if no other worker has claimed it since.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson
import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove, DeliveryState, after
from receiver.ledger.database import dialect, many_rows
from receiver.ledger.deliveries import links
from receiver.ledger.deliveries.claimed import UNCLAIMED, Claimed
from receiver.ledger.schema import attempts, deliveries


class AttemptResult(NamedTuple):
    """The result of one attempt. `event_id`: of its delivery. `move`: ACCEPT, DEFER, DIE or LAPSE.

    `outcome`: its name in the attempts table. Times are seconds since the epoch, `retry_after` is seconds.
    `response`: the beginning of what a refusing server answered, or ""."""

    id: str
    event_id: str
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
    response: str = ""
    tried_at: float | None = None  # start of the delivery's time limit; None: this attempt's start


def settle(
    connection: sa.Connection,
    owner: str,
    results: Sequence[AttemptResult],
    now: float,
    unstarted: Sequence[Claimed] = (),
) -> list[str]:
    """Settle deliveries that `owner` has claimed, and hand back those that never started.

    Returns the sinks of held deliveries that are due now. An attempt is recorded even if the claim has lapsed. The
    delivery then stays unchanged, unless the sink accepted it and it is still queued.
    """
    moved = [_moved(each) for each in results] + [_handed_back(each) for each in unstarted]
    moved.sort(key=lambda row: str(row["id"]))
    many_rows.write(
        connection,
        _inserted([(owner, each) for each in results]),
        many_rows.Change(deliveries.c.id, moved, _move, _MOVED, {"b_owner": owner, "b_now": now}),
    )
    ended = {each.event_id for each in results if each.move is not DeliveryMove.DEFER}
    return links.release_held(connection, ended, now)


def ids_with_result(connection: sa.Connection, claimed: Sequence[Claimed]) -> set[str]:
    """Return the ids of the claimed deliveries whose current attempt already has a result."""
    it = attempts.c
    query = sa.select(it.delivery_id, it.number).where(
        dialect.among(it.delivery_id, [each.id for each in claimed]), it.outcome != "lapsed"
    )
    numbers = {each.id: each.attempt_number for each in claimed}
    return {row.delivery_id for row in connection.execute(query) if row.number == numbers[row.delivery_id]}


def record(connection: sa.Connection, results: Sequence[tuple[str, AttemptResult]]) -> None:
    """Record attempts, each with its worker. A result replaces an existing `lapsed`, but no other result.

    Of an erased attempt the response stays the note that `retention.erase` has left.
    """
    many_rows.write(connection, _inserted(results))


def _inserted(results: Sequence[tuple[str, AttemptResult]]) -> many_rows.Insert:
    rows = [
        {
            "delivery_id": each.id,
            "number": each.attempt_number,
            "receipt": _receipt_text(each.receipt),
            "worker": worker,
            **{name: getattr(each, name) for name in _SAME},
        }
        for worker, each in sorted(results, key=lambda result: result[1].id)
    ]
    return many_rows.Insert(attempts.c.delivery_id, rows, _replace_lapsed)


def _replace_lapsed(insert: Any) -> Any:
    key = (attempts.c.delivery_id, attempts.c.number)
    changed = {each.name: insert.excluded[each.name] for each in attempts.c if each not in key}
    changed["response"] = sa.func.coalesce(sa.func.nullif(attempts.c.response, ""), changed["response"])
    return many_rows.or_update(insert, changed, attempts.c.outcome == "lapsed")


_SAME: Final = ("outcome", "reason", "response", "retry_after", "started_at", "ended_at")


def _receipt_text(receipt: Mapping[str, Any] | None) -> str | None:
    if receipt is None:
        return None
    try:
        return orjson.dumps(receipt).decode()
    except TypeError:  # such as a lone surrogate in a sink's text, or another type
        pass
    try:
        return json.dumps(receipt, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        return json.dumps({"note": f"{type(error).__name__} in the sink's receipt"})


_MOVED: Final[tuple[tuple[str, Any], ...]] = (
    *(("id", sa.Text()), ("number", sa.Integer()), ("state", sa.Text()), ("reason", sa.Text())),
    *(("due_at", sa.Double()), ("tried_at", sa.Double()), ("spends", sa.Integer()), ("untried", sa.Integer())),
    ("accepted", sa.Integer()),
)


def _moved(each: AttemptResult) -> dict[str, Any]:
    """Return the new values of a delivery in the columns of _MOVED: null keeps the current value."""
    deferred = each.move is DeliveryMove.DEFER
    return {
        "id": each.id,
        "number": each.attempt_number,
        "state": after(DeliveryState.SENDING, each.move),
        "reason": each.reason,
        "due_at": None if each.move is DeliveryMove.ACCEPT else each.due_at,
        "tried_at": (each.started_at if each.tried_at is None else each.tried_at) if deferred else None,
        "spends": int(each.spends and each.move is not DeliveryMove.ACCEPT),
        "untried": 0,
        "accepted": int(each.move is DeliveryMove.ACCEPT),
    }


def _handed_back(each: Claimed) -> dict[str, Any]:
    """Return the same for a delivery that never started, whose claim does not count as an attempt."""
    state = after(DeliveryState.SENDING, DeliveryMove.HAND_BACK)
    unchanged = {"reason": None, "due_at": None, "tried_at": None, "spends": 0}
    return {"id": each.id, "number": each.attempt_number, "state": state, **unchanged, "untried": 1, "accepted": 0}


def _move(given: Callable[[str], Any]) -> sa.Update:
    """Return the statement that moves deliveries that are still claimed, or were accepted after the claim lapsed."""
    it = deliveries.c
    claimed = sa.and_(it.claim_owner == sa.bindparam("b_owner"), it.state == DeliveryState.SENDING)
    lapsed = sa.and_(given("accepted") == 1, it.state == DeliveryState.QUEUED)
    return (
        sa.update(deliveries)
        .where(dialect.row_by_row(it.attempts == given("number"), sa.or_(claimed, lapsed)))
        .values(
            state=given("state"),
            reason=sa.func.coalesce(given("reason"), it.reason),
            due_at=sa.func.coalesce(given("due_at"), it.due_at),
            tried_at=sa.func.coalesce(given("tried_at"), it.tried_at),
            spent=it.spent + given("spends"),
            attempts=it.attempts - given("untried"),
            updated_at=sa.bindparam("b_now", type_=sa.Double()),
            **UNCLAIMED,
        )
    )
