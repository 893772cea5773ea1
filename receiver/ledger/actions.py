"""Run actions on many deliveries as operations, which survive restarts.

An operation moves what matched when it began: nothing created later, and a replay nothing that ended or was cancelled
later. The clock process runs its steps. A step moves a bounded number of deliveries and the cursor in one
transaction.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.errors import NotAsExpected
from receiver.ledger.deliveries import lanes, orphans, resend
from receiver.ledger.schema import deliveries, operations
from receiver.ledger.selection import CANCEL, MOVE, MOVE_BACK, REPLAY, Action, Selection

# Seconds by which the clocks of two processes may differ, although both follow the database's.
_SKEW: Final = 1.0
# Finds a running operation, whose next step is due.
ONE_RUNNING: Final = sa.select(sa.literal_column("1", sa.Integer())).where(operations.c.state == "running").limit(1)


class StepBounds(NamedTuple):
    """What one step does at most: deliveries that it moves, and rows that each of its statements searches.

    A step without a match ends after `seconds`, to release the ledger for others.
    """

    moves: int = 500
    rows: int = 2000
    seconds: float = 0.1


STEP: Final = StepBounds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation(Action):
    """An action that has begun. `source`: its only source, or "" for all. `actor`: who began it, or ""."""

    id: str
    state: str
    total: int
    done: int = 0
    cursor: str = ""
    created_at: float
    updated_at: float
    source: str = ""
    actor: str = ""


def create(
    connection: sa.Connection,
    operation_id: str,
    action: Action,
    now: float,
    *,
    expect: int | None = None,
    actor: str = "",
) -> Operation:
    """Begin an action. It selects only what exists before `now`, so that it ends.

    `expect`: the required number of matches; raises NotAsExpected if it differs. `actor`: who begins it.
    """
    selection = action.selection
    if not selection.has_ids:
        until = now if selection.until is None else min(selection.until, now)
        action = replace(action, selection=replace(selection, until=until))
    total = action.count(connection)
    if expect is not None and expect != total:
        raise NotAsExpected(expect, total)
    made = Operation(
        *(getattr(action, each.name) for each in fields(Action)),
        id=operation_id,
        state="running" if total else "done",
        total=total,
        created_at=now,
        updated_at=now,
        source=selection.source,
        actor=actor,
    )
    row = {each.name: getattr(made, each.name) for each in fields(Operation)}
    connection.execute(sa.insert(operations).values({**row, "selection": made.selection.to_json()}))
    return made


def _from(row: Mapping[str, Any]) -> Operation:
    return Operation(**{**row, "selection": Selection.from_json(row["selection"])})


def list_operations(
    connection: sa.Connection,
    limit: int = 50,
    *,
    source: str = "",
    state: Sequence[str] = (),
    after: tuple[float, str] | None = None,
) -> list[Operation]:
    """Return operations, the newest first.

    `source`: only operations limited to it. `after`: creation time and id of the previous page's last operation.
    """
    it = operations.c
    query = sa.select(operations).order_by(it.created_at.desc(), it.id.desc()).limit(limit)
    if source:
        query = query.where(it.source == source)
    if state:
        query = query.where(it.state.in_(state))
    if after is not None:
        query = query.where(sa.tuple_(it.created_at, it.id) < after)
    return [_from(row._mapping) for row in connection.execute(query)]  # type: ignore[arg-type]


def get(connection: sa.Connection, operation_id: str) -> Operation | None:
    """Return the operation with this id, or None."""
    row = connection.execute(sa.select(operations).where(operations.c.id == operation_id)).first()
    return _from(row._mapping) if row else None  # type: ignore[arg-type]


def cancel(connection: sa.Connection, operation_id: str, now: float) -> bool:
    """Stop the operation; deliveries already moved stay moved. Returns False if it is not running."""
    result = connection.execute(
        sa.update(operations)
        .where(operations.c.id == operation_id, operations.c.state == "running")
        .values(state="cancelled", updated_at=now)
    )
    return result.rowcount == 1


def count_running(connection: sa.Connection) -> int:
    """Count the operations that are running."""
    query = sa.select(sa.func.count()).select_from(operations).where(operations.c.state == "running")
    return connection.execute(query).scalar_one()


def remove(connection: sa.Connection, before: float, most: int = 500) -> int:
    """Remove up to `most` operations that ended before `before`, the oldest first. Returns their number."""
    it = operations.c
    old = sa.select(it.id).where(it.created_at < before, it.updated_at < before, it.state != "running")
    ids = old.order_by(it.created_at, it.id).limit(most)
    return connection.execute(sa.delete(operations).where(it.id.in_(ids))).rowcount


class StepsMade(NamedTuple):
    """The result of `step`. `sinks`: those with new due deliveries. `more`: an operation without a rate continues."""

    sinks: list[str]
    more: bool


def running(connection: sa.Connection) -> list[str]:
    """Return the ids of the operations that are running, the oldest first."""
    query = sa.select(operations.c.id).where(operations.c.state == "running").order_by(operations.c.created_at)
    return list(connection.scalars(query))


def step(connection: sa.Connection, now: float, bounds: StepBounds = STEP, *, only: str | None = None) -> StepsMade:
    """Run one step of each running operation, or of the operation `only`. Skips what another clock has locked."""
    chosen = sa.select(operations).where(
        operations.c.state == "running", operations.c.id == only if only else sa.true()
    )
    rows = connection.execute(chosen.order_by(operations.c.created_at).with_for_update(skip_locked=True)).all()
    woken: set[str] = set()
    more = False
    for operation in (_from(row._mapping) for row in rows):  # type: ignore[arg-type]
        due = (
            int((now - operation.created_at) * operation.rate) + 1 - operation.done if operation.rate else bounds.moves
        )
        if due > 0:
            after, sinks = _step(connection, operation, bounds._replace(moves=min(bounds.moves, due)), now)
            woken |= sinks
            more = more or (after.state == "running" and not operation.rate)
    return StepsMade(sorted(woken), more)


def step_once(connection: sa.Connection, operation: Operation, now: float) -> Operation:
    """Run one step of an operation created in this transaction, and return its new state.

    The sinks need no wake-up here: the clock wakes each sink that has due deliveries.
    """
    return _step(connection, operation, STEP, now)[0] if operation.state == "running" else operation


def _step(
    connection: sa.Connection, operation: Operation, bounds: StepBounds, now: float
) -> tuple[Operation, set[str]]:
    work = _reassign if operation.kind in (MOVE, MOVE_BACK) else _move
    moved, cursor, sinks = work(connection, operation, bounds, now)
    changes: dict[str, Any] = {"done": operation.done + moved, "cursor": cursor or operation.cursor, "updated_at": now}
    changes |= {} if cursor else {"state": "done"}
    connection.execute(sa.update(operations).where(operations.c.id == operation.id).values(**changes))
    return replace(operation, **changes), sinks


def _move(connection: sa.Connection, operation: Operation, bounds: StepBounds, now: float) -> tuple[int, str, set[str]]:
    """Move deliveries. Returns their number, the new cursor ("" at the end), and sinks with new work."""
    selection, kind = operation.selection, operation.kind
    query = operation.taken()
    if kind == REPLAY and not selection.has_ids:
        # A delivery that has ended or was cancelled since was not counted.
        query = query.where(deliveries.c.updated_at <= operation.created_at + _SKEW)
    rows, cursor = _next(connection, query, deliveries.c.id, operation.cursor, bounds, has_ids=selection.has_ids)
    ids = [row.id for row in rows]
    if kind == CANCEL:
        # The reason lets an operator restore all matches of a filter together.
        reason = f"{resend.ALONE} ({operation.id})" if selection.has_ids else f"{resend.TOGETHER} {operation.id}"
        return len(resend.cancel(connection, ids, reason, now)), cursor, set()
    unchanged = sa.and_(deliveries.c.id.in_(ids), deliveries.c.state.in_(operation.states))
    moved = resend.queue_again(connection, unchanged, now) if ids else ()
    lanes.probe_at_once(connection, {row.lane for row in moved}, now)
    return len(moved), cursor, {row.sink for row in moved}


def _reassign(
    connection: sa.Connection, operation: Operation, bounds: StepBounds, now: float
) -> tuple[int, str, set[str]]:
    """Give deliveries to another sink; then update those that wait for the first one. Returns the same as `_move`."""
    old, new = operation.selection.sink, operation.sink
    phase, _, place = operation.cursor.rpartition(":")
    moved = 0
    if not phase:
        rows, place = _next(connection, operation.taken(), deliveries.c.id, place, bounds)
        ids, undo = [row.id for row in rows], operation.kind == MOVE_BACK
        moved = orphans.move(connection, old, new, ids, operation.states, now, undo=undo)
        if place:
            return moved, place, {new}
    place = orphans.rename_links(connection, old, new, place)
    return moved, place and f"links:{place}", {new}


def _next(
    connection: sa.Connection,
    query: sa.Select[Any],
    key: sa.Column[Any],
    after: Any,
    bounds: StepBounds,
    *,
    has_ids: bool = False,
) -> tuple[Sequence[Any], str]:
    """Return the rows of a step after the primary key `after`, and the cursor of the next; "" at the end.

    `has_ids`: the selection is by ids, and so small. Any other is searched page by page, so that a statement reads a
    bounded number of rows. Possibly returns a new cursor and no rows.
    """
    began, query = time.monotonic(), query.order_by(key).limit(bounds.moves)
    while True:
        last = None
        if not has_ids:
            last = connection.execute(
                sa.select(key).where(key > after).order_by(key).offset(bounds.rows - 1).limit(1)
            ).scalar()
        rows = connection.execute(query.where(key > after, sa.true() if last is None else key <= last)).all()
        after = getattr(rows[-1], key.name) if len(rows) == bounds.moves else last
        if rows or last is None or time.monotonic() - began > bounds.seconds:
            return rows, "" if after is None else str(after)
