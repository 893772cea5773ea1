"""Replays, backfills and cancels of many as durable operations, which restarts do not stop.

A step moves a bounded number of deliveries and the cursor in one transaction. The clock makes the steps. What an
operation takes is what matched when it was begun: it takes nothing that was made later, a replay nothing that ended
later, and a restore nothing that was cancelled later.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.ledger.deliveries import cancellation, creation, lanes, resend, same_result
from receiver.ledger.schema import deliveries, events, operations
from receiver.ledger.selection import BACKFILL, CANCEL, REPLAY, RESTORE, Selection, count, missing_events, taken_ids

# Deliveries that one step moves at the most.
STEP = 500
# Operations that one transaction removes at the most.
BATCH: Final = 500
# Rows of which one statement looks for those that are wanted.
PAGE: Final = 2000
# Seconds after which a step that has found none lets others have the ledger.
SEARCH: Final = 0.1
# Seconds by which the clocks of two processes may differ that both go by the database's.
_SKEW: Final = 1.0
# The look for one that is running, so that a step is to be made.
ONE_RUNNING: Final = sa.select(sa.literal_column("1", sa.Integer())).where(operations.c.state == "running").limit(1)


class CountChanged(Exception):
    """As many as were expected are not what would be taken now. `count`: how many would be. Nothing was changed."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} match now")
        self.count = count


@dataclass(frozen=True, slots=True)
class Operation:
    """A replay of deliveries, a backfill of `sink` with old events, or a cancel or restore of deliveries.

    `source`: whose things it takes, "" for all; `actor`: who began it, or "".
    """

    id: str
    kind: str
    selection: Selection
    sink: str
    force: bool
    rate: float
    state: str
    total: int
    done: int
    cursor: str
    created_at: float
    updated_at: float
    source: str = ""
    actor: str = ""


def create(
    connection: sa.Connection,
    operation_id: str,
    kind: str,
    selection: Selection,
    now: float,
    *,
    sink: str = "",
    force: bool = False,
    rate: float = 0.0,
    expect: int | None = None,
    actor: str = "",
) -> Operation:
    """Create the operation. It takes only what exists before `now`, so that it ends.

    `expect`: how many it must be; raises CountChanged when it would be others. `actor`: who begins it.
    """
    if not selection.named:
        selection = replace(selection, until=now if selection.until is None else min(selection.until, now))
    total = count(connection, kind, selection, sink, force=force)
    if expect not in (None, total):
        raise CountChanged(total)
    values = {
        "id": operation_id,
        "kind": kind,
        "sink": sink,
        "force": force,
        "rate": rate,
        "state": "running" if total else "done",
        "total": total,
        "created_at": now,
        "updated_at": now,
        "source": selection.source,
        "actor": actor,
    }
    connection.execute(sa.insert(operations).values(selection=selection.to_json(), **values))
    return Operation(selection=selection, done=0, cursor="", **values)  # type: ignore[arg-type]


def _from(row: Mapping[str, Any]) -> Operation:
    return Operation(**{**row, "selection": Selection.from_json(row["selection"])})


def list_operations(
    connection: sa.Connection,
    limit: int = 50,
    *,
    source: str = "",
    state: Sequence[str] = (),
    before: tuple[float, str] | None = None,
) -> list[Operation]:
    """Return operations, the newest first. `source`: only those on its things alone; `before`: only those that come
    after the one that was created then and has this id."""
    it = operations.c
    query = sa.select(operations).order_by(it.created_at.desc(), it.id.desc()).limit(limit)
    if source:
        query = query.where(it.source == source)
    if state:
        query = query.where(it.state.in_(state))
    if before is not None:
        query = query.where(sa.tuple_(it.created_at, it.id) < before)
    return [_from(row._mapping) for row in connection.execute(query)]  # type: ignore[arg-type]


def get(connection: sa.Connection, operation_id: str) -> Operation | None:
    """Return the operation with this id, or None."""
    row = connection.execute(sa.select(operations).where(operations.c.id == operation_id)).first()
    return _from(row._mapping) if row else None  # type: ignore[arg-type]


def cancel(connection: sa.Connection, operation_id: str, now: float) -> bool:
    """Stop the operation; what it moved stays moved. Returns False when it is not running."""
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


def remove(connection: sa.Connection, before: float) -> int:
    """Remove up to BATCH operations that ended before `before`, the oldest first. Returns how many."""
    it = operations.c
    old = sa.select(it.id).where(it.created_at < before, it.updated_at < before, it.state != "running")
    ids = old.order_by(it.created_at, it.id).limit(BATCH)
    return connection.execute(sa.delete(operations).where(it.id.in_(ids))).rowcount


class StepsMade(NamedTuple):
    """`sinks`: those that got deliveries. `more`: an operation that has no rate was not yet done with its step."""

    sinks: list[str]
    more: bool


def step(connection: sa.Connection, now: float) -> StepsMade:
    """Make one step of each running operation that no other clock has locked. Leaves kinds of a later release to it."""
    rows = connection.execute(
        sa.select(operations)
        .where(operations.c.state == "running", operations.c.kind.in_((REPLAY, BACKFILL, CANCEL, RESTORE)))
        .order_by(operations.c.created_at)
        .with_for_update(skip_locked=True)
    ).all()
    woken: set[str] = set()
    more = False
    for row in rows:
        operation = _from(row._mapping)  # type: ignore[arg-type]
        limit = STEP
        if operation.rate:
            allowed = int((now - operation.created_at) * operation.rate) + 1 - operation.done
            limit = max(0, min(STEP, allowed))
            if not limit:
                continue
        after, sinks = _step(connection, operation, limit, now)
        woken |= sinks
        more = more or (after.state == "running" and not operation.rate)
    return StepsMade(sorted(woken), more)


def step_once(connection: sa.Connection, operation: Operation, now: float) -> Operation:
    """Make one step of an operation that was created in this transaction, and return how it is then.

    The clock wakes the sinks: what it finds due it does not ask who made it so.
    """
    return _step(connection, operation, STEP, now)[0] if operation.state == "running" else operation


def _step(connection: sa.Connection, operation: Operation, limit: int, now: float) -> tuple[Operation, set[str]]:
    work = _backfill if operation.kind == BACKFILL else _move
    moved, cursor, sinks = work(connection, operation, limit, now)
    after = replace(
        operation,
        done=operation.done + moved,
        cursor=cursor or operation.cursor,
        state=operation.state if cursor else "done",
        updated_at=now,
    )
    values = {"done": after.done, "cursor": after.cursor, "state": after.state, "updated_at": now}
    connection.execute(sa.update(operations).where(operations.c.id == operation.id).values(**values))
    return after, sinks


def _move(connection: sa.Connection, operation: Operation, limit: int, now: float) -> tuple[int, str, set[str]]:
    """Move up to `limit` deliveries. Returns how many, the new cursor ("" at the end), and sinks that got work."""
    selection, kind = operation.selection, operation.kind
    query = taken_ids(kind, selection, force=operation.force).order_by(deliveries.c.id).limit(limit)
    if kind in (REPLAY, RESTORE) and not selection.named:
        # One that has ended since, or was cancelled, is none of those that were counted.
        query = query.where(deliveries.c.updated_at <= operation.created_at + _SKEW)
    # Those that are named are few.
    pages = [""] if selection.named else _pages(connection, deliveries.c.id, operation.cursor)
    cursor, ids = operation.cursor, list[str]()
    for page in pages:
        within = deliveries.c.id > cursor
        ids = list(connection.execute(query.where(within, deliveries.c.id <= page if page else sa.true())).scalars())
        cursor = ids[-1] if len(ids) == limit else page
        if ids:
            break
    if not ids:
        return 0, cursor, set()
    if kind == CANCEL:
        return len(cancellation.cancel(connection, ids, _cancelled_by(operation), now)), cursor, set()
    if kind == RESTORE:
        return len(cancellation.restore(connection, ids, now)), cursor, set()
    moved = resend.queue_again(connection, deliveries.c.id.in_(ids), now)
    lanes.probe_at_once(connection, {row.lane for row in moved}, now)
    return len(moved), cursor, {row.sink for row in moved}


def _cancelled_by(operation: Operation) -> str:
    """Return the reason of what an operation cancels: by it, what a filter found is brought back together."""
    if operation.selection.named:
        return f"{cancellation.ALONE} ({operation.id})"
    return f"{cancellation.TOGETHER} {operation.id}"


def _backfill(connection: sa.Connection, operation: Operation, limit: int, now: float) -> tuple[int, str, set[str]]:
    query = (
        missing_events(operation.selection, operation.sink, operation.created_at).order_by(events.c.seq).limit(limit)
    )
    cursor, rows = operation.cursor, list[Any]()
    for page in _pages(connection, events.c.seq, int(cursor or 0)):
        within = events.c.seq > int(cursor or 0)
        rows = list(connection.execute(query.where(within, events.c.seq <= page if page else sa.true())))
        cursor = str(rows[-1].seq if len(rows) == limit else page or "")
        if rows:
            break
    if not rows:
        return 0, cursor, set()
    # What a reroute or a move has given the sink meanwhile is seen once they are locked.
    there = same_result.lock(connection, [row.id for row in rows])
    told = {each.asked for each in same_result.told(connection, there, [operation.sink])}
    rows = [row for row in rows if row.id in there - told]
    newest = same_result.newest_updates(connection, [row.id for row in rows])
    made = creation.insert(
        connection,
        (
            creation.delivery_row(newest.get(row.id, row.id), row.source, row.run_id, operation.sink, "backfill", now)
            for row in rows
        ),
    )
    return len(made), cursor, {operation.sink} if made else set()


def _pages(connection: sa.Connection, column: sa.Column[Any], after: Any) -> Iterator[Any]:
    """Yield the last value of `column`, a primary key, in each page of PAGE rows behind `after`; "" of the last page.

    So a statement reads a bounded number of rows, however few of them are wanted. Ends after SEARCH seconds: then the
    step has found nothing, but has come on.
    """
    began = time.monotonic()
    while True:
        page = sa.select(column).where(column > after).order_by(column).limit(1).offset(PAGE - 1)
        after = connection.execute(page).scalar()
        yield "" if after is None else after
        if after is None or time.monotonic() - began > SEARCH:
            return
