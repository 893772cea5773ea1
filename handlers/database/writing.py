"""Write a batch of rows in one transaction: most runs are new to the table, the others are merged with their row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import sqlalchemy as sa

from handlers.contract import Unavailable
from handlers.database import merge
from handlers.database.columns import Row
from handlers.database.merge import RunState
from handlers.database.statements import Statements


class RowMissing(Unavailable):
    """The database holds no row of a run, and said nothing: it was deleted meanwhile, or a trigger drops it."""


def write_rows(connection: sa.Connection, statements: Statements, rows: Sequence[Row]) -> list[bool]:
    """Write `rows`. Returns for each whether no event of its run is newer.

    Raises RowMissing when one was neither inserted nor found.
    """
    by_run: dict[str, list[Row]] = {}
    for row in rows:
        by_run.setdefault(row.run_id, []).append(row)
    newest: dict[str, merge.Order] = {}
    folded: dict[str, RunState] = {}
    cells: list[Mapping[str, Any]] = []
    # Sorted, so that concurrent batches lock in the same order and never deadlock.
    for run_id, events in sorted(by_run.items()):
        if len(events) == 1:
            cells.append(events[0].cells)
        else:
            folded[run_id] = _fold(statements, events)
            cells.append(merge.cells_of(statements.columns, folded[run_id]))
    inserted = {run_id for (run_id,) in connection.exec_driver_sql(*statements.insert(cells))}
    there = [run_id for run_id in sorted(by_run) if run_id not in inserted]
    if there:
        new = {run_id: folded.get(run_id) or _fold(statements, by_run[run_id]) for run_id in there}
        newest = _merge_into(connection, statements, new)
    for run_id in folded.keys() - newest.keys():
        newest[run_id] = folded[run_id].newest
    return [row.run_id not in newest or merge.order_of(row.cells) >= newest[row.run_id] for row in rows]


def _fold(statements: Statements, events: Sequence[Row]) -> RunState:
    return reduce(merge.join, (merge.of_event(statements.columns, row.cells) for row in events))


def _merge_into(
    connection: sa.Connection, statements: Statements, new: Mapping[str, RunState]
) -> dict[str, merge.Order]:
    """Merge states of runs with their rows. Returns the newest event of each."""
    newest: dict[str, merge.Order] = {}
    updates: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in connection.exec_driver_sql(*statements.kept(list(new))).all():
        cells, weights = statements.read_kept(record)
        run_id = cells["run_id"]
        old = merge.of_row(statements.columns, cells, weights)
        if merge.hides_result(old, new[run_id]):
            old = _with_result(connection, statements, run_id, old)
        joined = merge.join(old, new[run_id])
        newest[run_id] = joined.newest
        changed = merge.changes(statements.columns, old, joined)
        if changed:
            event = new[run_id].event or {}
            if "delivered_at" in event:
                changed["delivered_at"] = event["delivered_at"]
            changed.pop("run_id", None)
            updates.setdefault(tuple(sorted(changed)), []).append({"run_id": run_id, **changed})
    if len(newest) < len(new):
        raise RowMissing("the database keeps no row of this run: it was deleted meanwhile, or a trigger drops it")
    for names, rows in updates.items():
        connection.exec_driver_sql(*statements.update(names, rows))
    return newest


def _with_result(connection: sa.Connection, statements: Statements, run_id: str, old: RunState) -> RunState:
    names = sorted(old.results[old.status])
    row = connection.exec_driver_sql(*statements.cells(names, run_id)).one()
    return merge.with_result(old, statements.read_cells(names, row))
