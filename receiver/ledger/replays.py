"""Replays and backfills as durable operations, which restarts do not stop.

A step moves a bounded number of deliveries and the cursor in one transaction. The clock makes the steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove, DeliveryState, state_after, states_before
from receiver.ledger.deliveries import creation, lanes
from receiver.ledger.queries import Filter, begins, matching_deliveries, matching_events
from receiver.ledger.schema import deliveries, events, operations

# Deliveries that one step moves at the most.
STEP = 500
# Rows of which one statement looks for those that are wanted.
PAGE: Final = 2000
# Seconds after which a step that has found none lets others have the ledger.
SEARCH: Final = 0.5


@dataclass(frozen=True, slots=True)
class Selection(Filter):
    """What an operation takes: deliveries by id, or all that the filter finds. Its limit and offset do not count.

    `sinks`: those that exist; deliveries of others are orphaned, and nobody would send them. Empty: not known.
    """

    delivery_ids: tuple[str, ...] = ()
    sinks: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return its JSON, as the ledger keeps it."""
        kept = {name: value for name, value in asdict(self).items() if value and name not in ("limit", "offset")}
        return json.dumps(kept)

    @classmethod
    def from_json(cls, text: str) -> Selection:
        """Return the selection that `to_json` wrote."""
        kept: dict[str, Any] = json.loads(text)
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Operation:
    """A replay of deliveries, or a backfill of `sink` with old events."""

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


def _replayable(selection: Selection, *, force: bool) -> sa.Select[Any]:
    """Select the ids of the deliveries that a replay takes: never one that is queued or under way, one that succeeded
    only by force, and one that waits for its next attempt only when that state was asked for."""
    takes = [DeliveryState.DEAD, DeliveryState.DELIVERED] if force else [DeliveryState.DEAD]
    assert set(takes) <= set(states_before(DeliveryMove.REPLAY))
    if DeliveryState.WAITING in selection.state:
        takes.append(DeliveryState.WAITING)
    found = matching_deliveries(selection).where(deliveries.c.state.in_([state.value for state in takes]))
    if selection.delivery_ids:
        found = found.where(sa.or_(*(begins(deliveries.c.id, each) for each in selection.delivery_ids)))
    if selection.sinks:
        found = found.where(deliveries.c.sink.in_(selection.sinks))
    return found.with_only_columns(deliveries.c.id)


def _missing(selection: Selection, sink: str) -> sa.Select[Any]:
    """The events that a backfill takes: of each new result that `sink` has no delivery of, the last that adds to it."""
    other, later = events.alias("other"), events.alias("later")
    result = sa.func.coalesce(events.c.repeat_of, events.c.id)

    def of_result(event: sa.FromClause) -> sa.ColumnElement[bool]:
        return sa.and_(
            event.c.source == events.c.source,
            event.c.run_id == events.c.run_id,
            sa.func.coalesce(event.c.repeat_of, event.c.id) == result,
        )

    has_one = (
        sa.select(sa.literal(1))
        .select_from(other.join(deliveries, deliveries.c.event_id == other.c.id))
        .where(of_result(other), deliveries.c.sink == sink)
        .exists()
    )
    has_later = (
        sa.select(sa.literal(1))
        .where(of_result(later), later.c.disposition == "update", later.c.seq > events.c.seq)
        .exists()
    )
    found = sa.select(events.c.seq, events.c.id, events.c.source, events.c.run_id).where(
        events.c.disposition.in_(("new", "update")), ~has_one, ~has_later
    )
    return matching_events(found, selection)


def count(connection: sa.Connection, kind: str, selection: Selection, sink: str = "", *, force: bool = False) -> int:
    """Count the deliveries that the operation would move now."""
    query = _replayable(selection, force=force) if kind == "replay" else _missing(selection, sink)
    return connection.execute(sa.select(sa.func.count()).select_from(query.subquery())).scalar_one()


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
) -> Operation:
    """Create the operation. It takes only what exists before `now`, so that it ends."""
    if not selection.delivery_ids:
        selection = replace(selection, until=now if selection.until is None else min(selection.until, now))
    total = count(connection, kind, selection, sink, force=force)
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
    }
    connection.execute(sa.insert(operations).values(selection=selection.to_json(), **values))
    return Operation(selection=selection, done=0, cursor="", **values)  # type: ignore[arg-type]


def _from(row: Mapping[str, Any]) -> Operation:
    return Operation(**{**row, "selection": Selection.from_json(row["selection"])})


def list_operations(connection: sa.Connection, limit: int = 50) -> list[Operation]:
    """Return operations, the newest first."""
    query = sa.select(operations).order_by(operations.c.created_at.desc(), operations.c.id).limit(limit)
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


def any_running(connection: sa.Connection) -> bool:
    """Whether an operation is running, so that a step is to be made."""
    query = sa.select(sa.literal(1)).where(operations.c.state == "running").limit(1)
    return connection.execute(query).first() is not None


def count_running(connection: sa.Connection) -> int:
    """Count the operations that are running."""
    query = sa.select(sa.func.count()).select_from(operations).where(operations.c.state == "running")
    return connection.execute(query).scalar_one()


def step(connection: sa.Connection, now: float) -> list[str]:
    """Make one step of each running operation that no other clock has locked. Returns the sinks that got deliveries."""
    rows = connection.execute(
        sa.select(operations)
        .where(operations.c.state == "running")
        .order_by(operations.c.created_at)
        .with_for_update(skip_locked=True)
    ).all()
    woken: set[str] = set()
    for row in rows:
        operation = _from(row._mapping)  # type: ignore[arg-type]
        limit = STEP
        if operation.rate:
            allowed = int((now - operation.created_at) * operation.rate) + 1 - operation.done
            limit = max(0, min(STEP, allowed))
            if not limit:
                continue
        moved, cursor, sinks = (_replay if operation.kind == "replay" else _backfill)(connection, operation, limit, now)
        woken |= sinks
        values: dict[str, Any] = {"done": operation.done + moved, "cursor": cursor, "updated_at": now}
        if not cursor:
            values |= {"state": "done", "cursor": operation.cursor}
        connection.execute(sa.update(operations).where(operations.c.id == operation.id).values(**values))
    return sorted(woken)


def _replay(connection: sa.Connection, operation: Operation, limit: int, now: float) -> tuple[int, str, set[str]]:
    """Replay up to `limit`. Returns how many, the new cursor ("" at the end), and their sinks.

    What waits for its next attempt has it now, and keeps what it has spent. An open breaker is probed at once.
    """
    query = _replayable(operation.selection, force=operation.force).order_by(deliveries.c.id).limit(limit)
    # Those that are named are few.
    pages = _pages(connection, deliveries.c.id, operation.cursor) if not operation.selection.delivery_ids else [""]
    cursor, ids = operation.cursor, list[str]()
    for page in pages:
        within = deliveries.c.id > cursor
        ids = list(connection.execute(query.where(within, deliveries.c.id <= page if page else sa.true())).scalars())
        cursor = ids[-1] if len(ids) == limit else page
        if ids:
            break
    if not ids:
        return 0, cursor, set()
    moved: list[Any] = []
    for move, fresh in ((DeliveryMove.REPLAY, {"spent": 0, "tried_at": None, "reason": ""}), (DeliveryMove.DUE, {})):
        moved += connection.execute(
            sa.update(deliveries)
            .where(deliveries.c.id.in_(ids), deliveries.c.state.in_(states_before(move)))
            .values(state=state_after(move), due_at=now, updated_at=now, **fresh)
            .returning(deliveries.c.sink, deliveries.c.lane)
        )
    lanes.probe_at_once(connection, {row.lane for row in moved}, now)
    return len(moved), cursor, {row.sink for row in moved}


def _backfill(connection: sa.Connection, operation: Operation, limit: int, now: float) -> tuple[int, str, set[str]]:
    query = _missing(operation.selection, operation.sink).order_by(events.c.seq).limit(limit)
    cursor, rows = operation.cursor, list[Any]()
    for page in _pages(connection, events.c.seq, int(cursor or 0)):
        within = events.c.seq > int(cursor or 0)
        rows = list(connection.execute(query.where(within, events.c.seq <= page if page else sa.true())))
        cursor = str(rows[-1].seq if len(rows) == limit else page or "")
        if rows:
            break
    if not rows:
        return 0, cursor, set()
    made = creation.insert(
        connection,
        (creation.delivery_row(row.id, row.source, row.run_id, operation.sink, "backfill", now) for row in rows),
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


def states_of(connection: sa.Connection, beginning: str) -> list[str]:
    """Return the states of the deliveries whose id is or begins with `beginning`."""
    return list(connection.execute(sa.select(deliveries.c.state).where(begins(deliveries.c.id, beginning))).scalars())
