"""A batch of rows: most runs are new to the table, the others are merged with their row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import sqlalchemy as sa

from handlers.contract import Refused, Unavailable
from handlers.database import merge
from handlers.database.columns import Row
from handlers.database.merge import RunState
from handlers.database.statements import Key, Statements
from handlers.database.table import SOURCE


class RowMissing(Unavailable):
    """The database holds no row of a run, and said nothing: it was deleted meanwhile, or a trigger drops it."""


class OtherSource(Refused):
    """The table, whose key is the run's id alone, holds a run of another source with the same id."""


class RowBatch:
    """Rows to be written: what is said of each run is one row, in the order in which they are locked. Raises
    OtherSource."""

    def __init__(self, statements: Statements, rows: Sequence[Row]) -> None:
        self._statements = statements
        self._rows = rows
        by_run: dict[Key, list[Row]] = {}
        for row in rows:
            by_run.setdefault(_key_of(statements, row.cells), []).append(row)
        # Sorted, so that concurrent batches lock in the same order and never deadlock.
        self._by_run = dict(sorted(by_run.items()))
        self._folded: dict[Key, RunState] = {}
        self.cells: list[Mapping[str, Any]] = []
        for key, events in self._by_run.items():
            for each in events[1:]:
                _check_source(events[0].cells, each.cells)
            if len(events) == 1:
                self.cells.append(events[0].cells)
            else:
                self._folded[key] = _fold(statements, events)
                self.cells.append(merge.cells_of(statements.columns, self._folded[key]))

    def there(self, inserted: Iterable[Sequence[Any]]) -> list[Key]:
        """Return the keys of the runs that have a row already. `inserted`: the keys of those that had none."""
        new = {tuple(key) for key in inserted}
        return [key for key in self._by_run if key not in new]

    def merge_into(self, connection: sa.Connection, there: Sequence[Key]) -> dict[Key, merge.Order]:
        """Merge what is said of runs with their rows. Returns the newest event of each.

        Raises RowMissing when one is neither inserted nor found, and OtherSource.
        """
        new = {key: self._folded.get(key) or _fold(self._statements, self._by_run[key]) for key in there}
        given = {key: self._by_run[key][0].cells for key in there}
        return _merge_into(connection, self._statements, new, given)

    def fresh(self, newest: Mapping[Key, merge.Order]) -> list[bool]:
        """Return for each row whether no event of its run is newer. `newest`: of the rows that were there."""
        known = {**{key: state.newest for key, state in self._folded.items()}, **newest}
        if not known:  # as most batches are: of new runs, with an event each
            return [True] * len(self._rows)
        orders = [(_key_of(self._statements, row.cells), merge.order_of(row.cells)) for row in self._rows]
        return [key not in known or order >= known[key] for key, order in orders]


def _key_of(statements: Statements, cells: Mapping[str, Any]) -> Key:
    return tuple(cells[name] for name in statements.key)


def _check_source(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raise OtherSource for cells of two sources, which only the key of an earlier release lets meet."""
    sources = {one.get(SOURCE), other.get(SOURCE)} - {None}
    if len(sources) > 1:
        raise OtherSource(
            "the table's key is run_id alone, and it has this run id of another source; `runhook sink columns` shows "
            "the SQL for a key of both"
        )


def _fold(statements: Statements, events: Sequence[Row]) -> RunState:
    return reduce(merge.join, (merge.of_event(statements.columns, row.cells) for row in events))


def _merge_into(
    connection: sa.Connection,
    statements: Statements,
    new: Mapping[Key, RunState],
    given: Mapping[Key, Mapping[str, Any]],
) -> dict[Key, merge.Order]:
    """Merge states of runs with their rows. `given`: cells of an event of each. Returns the newest event of each."""
    newest: dict[Key, merge.Order] = {}
    updates: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in connection.exec_driver_sql(*statements.kept(list(new))).all():
        cells, weights = statements.read_kept(record)
        key = _key_of(statements, cells)
        _check_source(cells, given[key])
        old = merge.of_row(statements.columns, cells, weights)
        if merge.hides_result(old, new[key]):
            old = _with_result(connection, statements, key, old)
        joined = merge.join(old, new[key])
        newest[key] = joined.newest
        changed = merge.changes(statements.columns, old, joined)
        if changed:
            event = new[key].event or {}
            if "delivered_at" in event:
                changed["delivered_at"] = event["delivered_at"]
            for name in statements.key:
                changed.pop(name, None)
            updates.setdefault(tuple(sorted(changed)), []).append(
                {**dict(zip(statements.key, key, strict=True)), **changed}
            )
    if len(newest) < len(new):
        raise RowMissing("the database keeps no row of this run: it was deleted meanwhile, or a trigger drops it")
    for names, rows in updates.items():
        connection.exec_driver_sql(*statements.update(names, rows))
    return newest


def _with_result(connection: sa.Connection, statements: Statements, key: Key, old: RunState) -> RunState:
    names = sorted(old.results[old.status])
    row = connection.exec_driver_sql(*statements.cells(names, key)).one()
    return merge.with_result(old, statements.read_cells(names, row))
