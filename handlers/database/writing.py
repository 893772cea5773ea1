"""Write a batch of rows: insert runs that are new, and merge the others with their row of the table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import sqlalchemy as sa

from handlers.contract import Unavailable
from handlers.database import merge
from handlers.database.merge import RunState
from handlers.database.results_table import Cells, Key, ResultsTable


class RowMissing(Unavailable):
    """The database has no row of a run after it was inserted: it was deleted meanwhile, or a trigger drops it."""


def write_runs(connection: sa.Connection, table: ResultsTable, rows: Sequence[Cells]) -> list[bool]:
    """Write what the events `rows` say of their runs. Returns for each event whether none of its run's is newer.

    Raises RowMissing.
    """
    by_run: dict[Key, list[Cells]] = {}
    for row in rows:
        by_run.setdefault(table.key_of(row), []).append(row)
    # Sorted, so that concurrent batches lock in the same order and never deadlock.
    by_run = dict(sorted(by_run.items()))
    several = {key: _fold(table, events) for key, events in by_run.items() if len(events) > 1}
    written = [
        merge.cells_of(table.columns, several[key]) if key in several else events[0] for key, events in by_run.items()
    ]
    inserted = table.insert_new(connection, written)
    there = {key: several.get(key) or _fold(table, by_run[key]) for key in by_run if key not in inserted}
    newest = {key: state.newest for key, state in several.items()}
    if there:
        newest |= _merge(connection, table, there)
    return [(last := newest.get(table.key_of(row))) is None or merge.order_of(row) >= last for row in rows]


def _merge(connection: sa.Connection, table: ResultsTable, new: dict[Key, RunState]) -> dict[Key, merge.Order]:
    """Merge states of runs with their rows. Returns the newest event of each run."""
    newest: dict[Key, merge.Order] = {}
    changed: list[Cells] = []
    for row in table.read(connection, list(new)):
        key = table.key_of(row)
        old = merge.of_row(table.columns, row)
        joined = merge.join(old, new[key])
        newest[key] = joined.newest
        cells = merge.cells_of(table.columns, joined)
        if cells != merge.cells_of(table.columns, old):
            if "delivered_at" in cells:
                cells["delivered_at"] = new[key].event["delivered_at"]
            changed.append({**cells, **dict(zip(table.key, key, strict=True))})
    if len(newest) < len(new):
        raise RowMissing(
            "the database has no row of this run: it was deleted meanwhile, or a trigger drops it. Check the triggers"
            " of the table"
        )
    if changed:
        table.overwrite(connection, changed)
    return newest


def _fold(table: ResultsTable, events: Sequence[Cells]) -> RunState:
    return reduce(merge.join, (merge.of_event(table.columns, each) for each in events))
