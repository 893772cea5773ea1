"""Operations and their verbs: the states of the deliveries that each takes, and what it does to them.

A delivery keeps its id, and so its idempotency key, whatever a verb does to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.delivery import ENDED, DeliveryMove, DeliveryState, state_after, states_before
from receiver.domain.event import delivery_id
from receiver.ledger.database import dialect
from receiver.ledger.deliveries import lanes, links, same_result
from receiver.ledger.schema import deliveries
from receiver.ledger.selection import Selection, selected

REPLAY: Final = "replay"
CANCEL: Final = "cancel"
MOVE: Final = "move"
MOVE_BACK: Final = "move_back"

# The start of the reason of deliveries cancelled by id, and of those cancelled by filter, which are replayed together.
ALONE: Final = "cancelled by an operator"
TOGETHER: Final = "cancelled by an operator, with"


def queue_again(connection: sa.Connection, condition: sa.ColumnElement[bool], now: float) -> Sequence[Any]:
    """Queue the deliveries that meet the condition and have ended or wait for their next attempt.

    Ended ones get all attempts again, waiting ones keep their count. A cancelled one is held while a sink that it waits
    for is pending. Returns the lane and event of each.
    """
    it = deliveries.c
    fresh = {"spent": 0, "tried_at": None, "reason": ""}
    queued: dict[DeliveryMove, Sequence[Any]] = {}
    for move in (DeliveryMove.REPLAY, DeliveryMove.DUE, DeliveryMove.RESTORE):
        queued[move] = connection.execute(
            sa.update(deliveries)
            .where(condition, it.state.in_(states_before(move)))
            .values(state=state_after(move), due_at=now, updated_at=now, **({} if move is DeliveryMove.DUE else fresh))
            .returning(it.lane, it.event_id)
        ).all()
    links.release_held(connection, {row.event_id for row in queued[DeliveryMove.RESTORE]}, now)
    return [row for rows in queued.values() for row in rows]


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


@dataclass(frozen=True, slots=True)
class Operation:
    """What to do with a selection. `kind`: its verb. `sink`: the target of a move. `force`: take delivered ones, too.

    `rate`: deliveries a second, 0 for no limit. The other fields are those of an operation that has begun. `source`:
    its only source, or "" for all. `actor`: who began it, or "".
    """

    kind: str
    selection: Selection
    sink: str = ""
    force: bool = False
    rate: float = 0.0
    id: str = ""
    state: str = ""
    total: int = 0
    done: int = 0
    cursor: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0
    source: str = ""
    actor: str = ""

    @property
    def states(self) -> list[DeliveryState]:
        """The states of the deliveries that it selects."""
        return VERBS[self.kind].takes(self)

    def taken(self) -> sa.Select[Any]:
        """Select the ids of its deliveries."""
        return selected(self.selection).where(deliveries.c.state.in_([state.value for state in self.states]))

    def count(self, connection: sa.Connection) -> int:
        """Count what it would select now."""
        return connection.execute(sa.select(sa.func.count()).select_from(self.taken().subquery())).scalar_one()

    def by_sink(self, connection: sa.Connection) -> dict[str, int]:
        """Count by sink what it would select now."""
        it = self.taken().with_only_columns(deliveries.c.sink).subquery()
        return {row[0]: row[1] for row in connection.execute(sa.select(it.c.sink, sa.func.count()).group_by(it.c.sink))}

    def examples(self, connection: sa.Connection, limit: int) -> list[dict[str, Any]]:
        """Return the first deliveries that it would select now."""
        it = deliveries.c
        names = (it.id, it.source, it.run_id, it.sink, it.state, it.reason)
        query = self.taken().with_only_columns(*names).order_by(it.id)
        return [dict(row._mapping) for row in connection.execute(query.limit(limit))]


def _replayable(operation: Operation) -> list[DeliveryState]:
    """Not queued ones and those being sent. Delivered ones only by force; waiting and cancelled ones only if that state
    was requested."""
    requested = (each for each in (DeliveryState.WAITING, DeliveryState.CANCELLED) if each in operation.selection.state)
    return [DeliveryState.DEAD, *([DeliveryState.DELIVERED] if operation.force else []), *requested]


def _replay(connection: sa.Connection, operation: Operation, ids: Sequence[str], now: float) -> int:
    unchanged = sa.and_(deliveries.c.id.in_(ids), deliveries.c.state.in_(operation.states))
    queued = queue_again(connection, unchanged, now)
    lanes.probe_at_once(connection, {row.lane for row in queued}, now)
    return len(queued)


def _cancel(connection: sa.Connection, operation: Operation, ids: Sequence[str], now: float) -> int:
    # The reason lets an operator restore all matches of a filter together.
    reason = f"{ALONE} ({operation.id})" if operation.selection.has_ids else f"{TOGETHER} {operation.id}"
    return len(cancel(connection, ids, reason, now))


def _movable(operation: Operation) -> list[DeliveryState]:
    kept = {DeliveryState.SENDING, *(() if operation.force else (DeliveryState.DELIVERED,))}
    return [state for state in DeliveryState if state not in kept]


def _move(
    connection: sa.Connection, operation: Operation, ids: Sequence[str], now: float, *, back: bool = False
) -> int:
    """Give deliveries of a removed sink to another one. Ended ones keep their state, the others start over.

    Skips results that the other sink has a delivery of. `back`: only deliveries that an earlier move took from there:
    the id of a delivery is derived from its event and its first sink.
    """
    it, old, new = deliveries.c, operation.selection.sink, operation.sink
    rows = connection.execute(sa.select(it.id, it.event_id).where(dialect.among(it.id, ids), it.sink == old)).all()
    rows = [row for row in rows if not back or row.id == delivery_id(row.event_id, new)]
    event_ids = {row.event_id for row in rows}
    same_result.lock(connection, event_ids)
    # Deliveries moved to `new` do not block others of the same result: its updates follow. Those created for `new` do.
    blocked = {
        each.asked
        for each in same_result.existing_deliveries(connection, event_ids, [new])
        if each.asked == each.event_id or (not back and each.id == delivery_id(each.event_id, new))
    }
    mine = sa.and_(dialect.among(it.id, [row.id for row in rows if row.event_id not in blocked]), it.sink == old)
    moved = 0
    for ended in (False, True):
        states = [state.value for state in operation.states if (state in ENDED) is ended]
        fresh: dict[str, Any] = {} if ended else {"due_at": now, "spent": 0, "tried_at": None}
        changed = sa.update(deliveries).where(mine, it.state.in_(states))
        moved += connection.execute(changed.values(sink=new, lane=new, updated_at=now, **fresh)).rowcount
    # In the same transaction, or deliveries that wait for these would be released in between.
    _rename_links(connection, same_result.events_of(connection, event_ids), old, new)
    return moved


def _rename_links(connection: sa.Connection, event_ids: Collection[str], old: str, new: str) -> None:
    """Let the pending deliveries of these events wait for `new` instead of `old`, and get its receipt."""
    it = deliveries.c
    waiting = sa.select(it.id, it.after).where(
        dialect.among(it.event_id, sorted(event_ids)),
        it.state.not_in([state.value for state in ENDED]),
        it.after.contains(json.dumps(old), autoescape=True),
    )
    for row in connection.execute(waiting.order_by(it.id)).all():
        after = list(dict.fromkeys(new if each == old else each for each in json.loads(row.after)))
        connection.execute(sa.update(deliveries).where(it.id == row.id).values(after=json.dumps(after)))


class Verb(NamedTuple):
    """`takes`: the states of the deliveries that an operation selects. `apply`: changes these deliveries, and returns
    how many were changed."""

    takes: Callable[[Operation], list[DeliveryState]]
    apply: Callable[[sa.Connection, Operation, Sequence[str], float], int]


VERBS: Final[Mapping[str, Verb]] = {
    REPLAY: Verb(_replayable, _replay),
    CANCEL: Verb(lambda _operation: states_before(DeliveryMove.CANCEL), _cancel),
    MOVE: Verb(_movable, _move),
    MOVE_BACK: Verb(_movable, partial(_move, back=True)),
}
