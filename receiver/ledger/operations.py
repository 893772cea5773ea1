"""Operations: a verb on a selection of deliveries, which survives restarts.

An operation changes what matched when it began: nothing created later, and a replay nothing that ended or was cancelled
later. The first step runs at once, the clock runs the others. A step changes a bounded number of deliveries and the
cursor in one transaction.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.errors import NotAsExpected
from receiver.ledger.schema import deliveries, operations
from receiver.ledger.selection import Selection
from receiver.ledger.verbs import REPLAY, VERBS, Operation

# Seconds by which the clocks of two processes may differ, although both follow the database's.
_SKEW: Final = 1.0
# Finds a running operation, whose next step is due.
ONE_RUNNING: Final = sa.select(sa.literal_column("1", sa.Integer())).where(operations.c.state == "running").limit(1)


class StepBounds(NamedTuple):
    """What one step does at most: deliveries that it changes, and rows that each of its statements searches.

    A step without a match ends after `seconds`, to release the ledger for others.
    """

    moves: int = 500
    rows: int = 2000
    seconds: float = 0.1


STEP: Final = StepBounds()


def create(
    connection: sa.Connection,
    operation_id: str,
    operation: Operation,
    now: float,
    *,
    expect: int | None = None,
    actor: str = "",
) -> Operation:
    """Begin an operation. It selects only what exists before `now`, so that it ends.

    `expect`: the required number of matches; raises NotAsExpected if it differs. `actor`: who begins it.
    """
    selection = operation.selection
    if not selection.has_ids:
        selection = replace(selection, until=now if selection.until is None else min(selection.until, now))
        operation = replace(operation, selection=selection)
    total = operation.count(connection)
    if expect is not None and expect != total:
        raise NotAsExpected(expect, total)
    begun = replace(
        operation,
        id=operation_id,
        state="running" if total else "done",
        total=total,
        created_at=now,
        updated_at=now,
        source=selection.source,
        actor=actor,
    )
    row = {each.name: getattr(begun, each.name) for each in fields(Operation)}
    connection.execute(sa.insert(operations).values({**row, "selection": selection.to_json()}))
    return begun


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


def running(connection: sa.Connection) -> list[str]:
    """Return the ids of the operations that are running, the oldest first."""
    query = sa.select(operations.c.id).where(operations.c.state == "running").order_by(operations.c.created_at)
    return list(connection.scalars(query))


def step(connection: sa.Connection, operation_id: str, now: float, bounds: StepBounds = STEP) -> bool:
    """Run one step of a running operation, unless another clock has locked it. Returns whether the next one is due."""
    mine = (operations.c.id == operation_id, operations.c.state == "running")
    row = connection.execute(sa.select(operations).where(*mine).with_for_update(skip_locked=True)).first()
    if row is None:
        return False
    operation = _from(row._mapping)  # type: ignore[arg-type]
    if operation.rate:
        due = int((now - operation.created_at) * operation.rate) + 1 - operation.done
        bounds = bounds._replace(moves=min(bounds.moves, due))
    if bounds.moves <= 0:
        return False
    return take_step(connection, operation, now, bounds).state == "running" and not operation.rate


def take_step(connection: sa.Connection, operation: Operation, now: float, bounds: StepBounds = STEP) -> Operation:
    """Run one step of an operation that this transaction has created or locked, and return its new state."""
    if operation.state != "running":
        return operation
    ids, cursor = _next(connection, operation, bounds)
    changed = VERBS[operation.kind].apply(connection, operation, ids, now) if ids else 0
    changes: dict[str, Any] = {"done": operation.done + changed, "updated_at": now}
    changes |= {"cursor": cursor} if cursor else {"state": "done"}
    connection.execute(sa.update(operations).where(operations.c.id == operation.id).values(**changes))
    return replace(operation, **changes)


def _next(connection: sa.Connection, operation: Operation, bounds: StepBounds) -> tuple[Sequence[str], str]:
    """Return the deliveries of the next step, and the cursor behind them; "" at the end.

    A selection by ids is small. Any other is searched page by page, so that a statement reads a bounded number of
    rows. Possibly returns a new cursor and no deliveries.
    """
    began, key, after = time.monotonic(), deliveries.c.id, operation.cursor
    has_ids = operation.selection.has_ids
    query = operation.taken().order_by(key).limit(bounds.moves)
    if operation.kind == REPLAY and not has_ids:
        # A delivery that has ended or was cancelled since was not counted.
        query = query.where(deliveries.c.updated_at <= operation.created_at + _SKEW)
    while True:
        page = sa.select(key).where(key > after).order_by(key).offset(bounds.rows - 1).limit(1)
        last = None if has_ids else connection.execute(page).scalar()
        ids = connection.scalars(query.where(key > after, sa.true() if last is None else key <= last)).all()
        after = ids[-1] if len(ids) == bounds.moves else last or ""
        if ids or last is None or time.monotonic() - began > bounds.seconds:
            return ids, after
