"""The sink `database`: one row for each run, merged from all its events; optionally one for each event.

It forms the transactions, and isolates a delivery that makes one fail.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar, Final

import sqlalchemy as sa

from handlers.contract import BatchSink, Delivery, Receipt, Refused, Services, SinkOptions, Unavailable
from handlers.database import merge
from handlers.database.columns import Columns, Row
from handlers.database.inspection import Inspected, TableInspection
from handlers.database.merge import RunState
from handlers.database.options import DatabaseOptions, parse_url
from handlers.database.results_table import Cells, Key, ResultsTable, by_key
from handlers.database.server import Database, RowRejected, TableMismatch
from handlers.support.private_file import folder_for

# Seconds before a table with missing columns is inspected again.
LOOK_AGAIN: Final = 60.0

Answers = list[Receipt | Exception | None]


class RowMissing(Unavailable):
    """The database has no row of a run after it was inserted: it was deleted meanwhile, or a trigger drops it."""


@dataclass(frozen=True, slots=True)
class _Tables:
    """The inspected tables. `look_again`: monotonic time, or None when complete."""

    runs: ResultsTable
    events: ResultsTable | None
    look_again: float | None


class DatabaseSink(BatchSink[DatabaseOptions]):
    """Writes rows to SQLite or PostgreSQL."""

    Options: ClassVar[type[SinkOptions]] = DatabaseOptions
    shares_worker: ClassVar[bool] = True
    batch_size: ClassVar[int] = 256
    takes_updates: ClassVar[bool] = True
    erases: ClassVar[bool] = True

    def __init__(self, name: str, options: DatabaseOptions, services: Services) -> None:
        super().__init__(name, options, services)
        self._columns = Columns(options.columns)
        self._database = Database(
            parse_url(options.url.get_secret_value()),
            options.timeout,
            accept_weaker=options.accept_weaker_durability,
            name=name,
        )
        self._inspections = [self._inspection(options.table)]
        if options.history:
            self._inspections.append(self._inspection(options.history_table, all_events=True))
        self._tables: _Tables | None = None
        self._preparing = threading.Lock()
        self._notice = ""  # warnings about the tables, for the next receipt
        self._reported = ""

    def send_many(self, deliveries: Sequence[Delivery]) -> list[Receipt | Exception]:
        """Write the rows in one transaction, unless one of them makes it fail.

        A receipt's id is table/run_id; its note reports when the row already holds a newer event.
        """
        deadline = time.monotonic() + self.options.timeout
        now = datetime.now(UTC)
        answers: Answers = [None] * len(deliveries)
        rows: list[tuple[int, Row]] = []
        for number, delivery in enumerate(deliveries):
            try:
                rows.append((number, self._columns.row(delivery, now)))
            except Refused as error:
                answers[number] = error
        if rows:
            self._write(rows, answers, deadline)
        assert None not in answers
        return answers  # type: ignore[return-value]

    def erase(self, source: str, run_id: str, receipt: Mapping[str, Any]) -> None:
        """See Sink. Deletes the run's rows in both tables. Raises Refused for another table than the one in use."""
        name = str(receipt.get("id", "")).removesuffix(f"/{run_id}")
        if name != self.options.table:
            raise Refused(f"its row is in the table {name}. Delete it there by hand")
        if self._database.is_sqlite and not Path(self._database.file).exists():
            return
        history = self._inspection(self.options.history_table, all_events=True)
        try:
            with self._database.transaction(time.monotonic() + self.options.timeout) as connection:
                for each in (self._inspections[0], history):
                    if (seen := each.look(connection)).exists:
                        each.table(seen.usable).delete_run(connection, source, run_id)
        except RowRejected as error:
            raise Refused(str(error)) from None

    def missing_columns(self) -> list[str]:
        """Return the statements that add the missing columns. Raises Unavailable."""
        with self._database.transaction(time.monotonic() + self.options.timeout) as connection:
            return [sql for each in self._inspections for sql in each.plan(each.look(connection))]

    def unfilled_columns(self) -> list[str]:
        """Return columns that are NOT NULL without a default and that Runhook does not fill. Raises Unavailable."""
        with self._database.transaction(time.monotonic() + self.options.timeout) as connection:
            return [name for each in self._inspections for name in each.look(connection).unfilled]

    def add_columns(self) -> list[str]:
        """Add the missing columns; return the statements. Raises Unavailable; then nothing has changed."""
        done: list[str] = []
        with self._database.transaction(time.monotonic() + self.options.timeout) as connection:
            for each in self._inspections:
                for sql in each.plan(each.look(connection)):
                    connection.exec_driver_sql(sql)
                    done.append(sql)
        return done

    def check(self) -> str:
        """Connect, and inspect the tables. A missing SQLite file is not created."""
        if self._database.is_sqlite and not (path := Path(self._database.file)).exists():
            try:
                folder_for(path.absolute().parent)
            except PermissionError as error:
                raise Unavailable(str(error)) from None
            return f"{path} is made with the first row"
        with self._database.transaction(time.monotonic() + self.options.timeout) as connection:
            states = [each.look(connection) for each in self._inspections]
        if self.options.create and not any(each.exists for each in states):
            return f"connected to {self._database.dialect}; the table {self.options.table} is made with the first row"
        missing = [sql for each, seen in zip(self._inspections, states, strict=True) for sql in each.plan(seen)]
        lacks = f"; its tables lack something: `runhook sink columns {self.name}`" if missing else ""
        return f"connected to {self._database.dialect}{lacks}"

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def _inspection(self, table: str, *, all_events: bool = False) -> TableInspection:
        return TableInspection(self.name, table, self._columns, self._database.dialect, all_events=all_events)

    def _write(self, part: list[tuple[int, Row]], answers: Answers, deadline: float) -> None:
        """Write `part` and set its results. Bisects on a bad row until that row is isolated."""
        try:
            written = self._written([row for _, row in part], deadline)
        except (RowRejected, RowMissing) as error:
            if len(part) > 1:
                middle = len(part) // 2
                self._write(part[:middle], answers, deadline)
                self._write(part[middle:], answers, deadline)
            else:
                answers[part[0][0]] = Refused(str(error)) if isinstance(error, RowRejected) else error
        except Unavailable as error:
            for number, _ in part:
                answers[number] = Unavailable(str(error))
        else:
            for (number, row), fresh in zip(part, written, strict=True):
                notice, self._notice = self._notice, ""
                answers[number] = Receipt(f"{self.options.table}/{row.cells['run_id']}", note=_note(row, fresh, notice))

    def _written(self, rows: Sequence[Row], deadline: float) -> list[bool]:
        """Write the rows in one transaction. Returns for each row whether its event is the newest of its run."""
        tables = self._prepare(deadline)
        cells = [row.cells for row in rows]
        try:
            with self._database.transaction(deadline) as connection:
                newest = write_runs(connection, tables.runs, cells)
                if tables.events is not None:
                    tables.events.complete(connection, list(by_key(tables.events, cells).values()))
        except TableMismatch as error:
            self._tables = None  # inspected again before the next attempt
            raise Unavailable(
                f"{error}; {self.options.table} needs a unique key: {tables.runs.unique_index()}"
            ) from None
        return newest

    def _prepare(self, deadline: float) -> _Tables:
        """Inspect the tables, once if complete; create what `create` allows."""
        tables = self._tables
        if tables is not None and (tables.look_again is None or time.monotonic() < tables.look_again):
            return tables
        if not self._preparing.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise Unavailable("another thread has been checking the table for too long")
        try:
            if self._tables is tables or self._tables is None:
                with self._database.transaction(deadline) as connection:
                    states = [each.prepare(connection, self.options.create) for each in self._inspections]
                self._tables = self._as_found(states)
            return self._tables
        except RowRejected as error:  # another process is creating the same table
            raise Unavailable(f"the table {self.options.table} could not be created: {error}") from None
        finally:
            self._preparing.release()

    def _as_found(self, states: Sequence[Inspected]) -> _Tables:
        pairs = list(zip(self._inspections, states, strict=True))
        tables = [each.table(seen.usable) for each, seen in pairs]
        notices = [each.notice(seen) for each, seen in pairs]
        notice = "; ".join(filter(None, notices))
        if notice != self._reported:
            self._reported = self._notice = notice
        complete = not any(seen.missing for seen in states)
        return _Tables(
            tables[0],
            tables[1] if len(tables) > 1 else None,
            None if complete else time.monotonic() + LOOK_AGAIN,
        )


def _note(row: Row, written: bool, notice: str) -> str:
    notes = []
    if not written:
        notes.append("the row holds a newer event of this run, and took only what it lacked")
    if row.unconverted:
        notes.append(f"null for want of a fitting value: {', '.join(row.unconverted)}")
    if notice:
        notes.append(notice)
    return "; ".join(notes)


def write_runs(connection: sa.Connection, table: ResultsTable, rows: Sequence[Cells]) -> list[bool]:
    """Write the rows of events into the rows of their runs. Returns for each event whether it is the newest of its run.

    Raises RowMissing.
    """
    by_run: dict[Key, list[Cells]] = {}
    for row in rows:
        by_run.setdefault(table.key_of(row), []).append(row)
    # Sorted, so that concurrent batches lock in the same order and never deadlock.
    by_run = dict(sorted(by_run.items()))
    # Usually a run has one event in a batch, so its cells are the row.
    states = {key: _fold(table, events) for key, events in by_run.items() if len(events) > 1}
    new_rows = [merge.cells_of(table.columns, states[key]) if key in states else by_run[key][0] for key in by_run]
    inserted = table.insert_new(connection, new_rows)
    existing = {key: states.get(key) or _fold(table, by_run[key]) for key in by_run if key not in inserted}
    newest = {key: state.newest for key, state in states.items()}
    if existing:
        newest |= _merge(connection, table, existing)
    return [merge.order_of(row) >= newest.get(table.key_of(row), merge.order_of(row)) for row in rows]


def _merge(connection: sa.Connection, table: ResultsTable, new: dict[Key, RunState]) -> dict[Key, merge.Order]:
    """Merge the runs' states into their rows. Returns the newest event of each run."""
    newest: dict[Key, merge.Order] = {}
    changed: list[Cells] = []
    for row in table.read(connection, list(new)):
        key = table.key_of(row)
        old = merge.state_of_row(table.columns, row)
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
    return reduce(merge.join, (merge.state_of_event(table.columns, each) for each in events))
