"""A batch of rows: most runs are new to the table, the others are merged with their row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import sqlalchemy as sa

from handlers.contract import Refused, Unavailable
from handlers.database import merge
from handlers.database.columns import Columns, Row
from handlers.database.merge import RunState
from handlers.database.statements import Key, Statements
from handlers.database.table import SOURCE


class RowMissing(Unavailable):
    """The database holds no row of a run, and said nothing: it was deleted meanwhile, or a trigger drops it."""


class OtherSource(Refused):
    """The table, whose key is the run's id alone, holds a run of another source with the same id."""


class RowBatch:
    """Rows to be written: what is said of each run is one row, in the order in which they are locked. Raises
    OtherSource.

    `by_column`: the values of what is to be written.
    """

    def __init__(self, statements: Statements, columns: Columns, rows: Sequence[Row]) -> None:
        self._statements = statements
        self._columns = columns
        self._rows = rows
        self._keys = keys_of(statements, columns, rows)
        by_run: dict[Key, list[Row]] = {}
        for key, row in zip(self._keys, rows, strict=True):
            by_run.setdefault(key, []).append(row)
        # Sorted, so that concurrent batches lock in the same order and never deadlock.
        self._by_run = dict(sorted(by_run.items()))
        self._folded: dict[Key, RunState] = {}
        written: list[Sequence[Any]] = []
        for key, events in self._by_run.items():
            if len(events) == 1:
                written.append(events[0].values)
            else:
                self._folded[key] = self._fold(events)
                cells = merge.cells_of(statements.columns, self._folded[key])
                written.append([*map(cells.get, columns.names)])
        self.by_column = by_column(columns, written)

    def there(self, inserted: Iterable[Sequence[Any]]) -> list[Key]:
        """Return the keys of the runs that have a row already. `inserted`: the keys of those that had none."""
        new = {tuple(key) for key in inserted}
        return [key for key in self._by_run if key not in new]

    def merge_into(self, connection: sa.Connection, there: Sequence[Key]) -> dict[Key, merge.Order]:
        """Merge what is said of runs with their rows. Returns the newest event of each.

        Raises RowMissing when one is neither inserted nor found, and OtherSource.
        """
        new = {key: self._folded.get(key) or self._fold(self._by_run[key]) for key in there}
        given = {key: self._columns.cells(self._by_run[key][0]) for key in there}
        return _merge_into(connection, self._statements, new, given)

    def fresh(self, newest: Mapping[Key, merge.Order]) -> list[bool]:
        """Return for each row whether no event of its run is newer. `newest`: of the rows that were there."""
        known = {**{key: state.newest for key, state in self._folded.items()}, **newest}
        if not known:  # as most batches are: of new runs, with an event each
            return [True] * len(self._rows)
        return [
            key not in known or merge.order_of(self._columns.cells(row)) >= known[key]
            for key, row in zip(self._keys, self._rows, strict=True)
        ]

    def _fold(self, events: Sequence[Row]) -> RunState:
        said = [*map(self._columns.cells, events)]
        for each in said[1:]:
            _check_source(said[0], each)
        return reduce(merge.join, (merge.of_event(self._statements.columns, each) for each in said))


def keys_of(statements: Statements, columns: Columns, rows: Sequence[Row]) -> list[Key]:
    """Return the key of each row."""
    places = [columns.names.index(name) for name in statements.key]
    return [tuple([row.values[place] for place in places]) for row in rows]


def by_column(columns: Columns, rows: Sequence[Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """Return the values of rows by column. Of two columns of one name, the last one's."""
    return dict(zip(columns.names, zip(*rows, strict=True), strict=True))


def _key_of(statements: Statements, cells: Mapping[str, Any]) -> Key:
    return tuple(cells[name] for name in statements.key)


def _check_source(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raise OtherSource for cells of two sources, which meet only in a table whose key is the run's id alone."""
    sources = {one.get(SOURCE), other.get(SOURCE)} - {None}
    if len(sources) > 1:
        raise OtherSource(
            "the table's key is run_id alone, and it has this run id of another source: give it the key "
            "(run_id, source)"
        )


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
