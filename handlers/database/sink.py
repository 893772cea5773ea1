"""The sink `database`: one row for each run, from its newest event.

It decides what goes into one transaction, and finds the delivery that made one fail.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import ClassVar

import sqlalchemy as sa

from handlers.contract import Delivery, Receipt, Refused, Services, Sink, SinkOptions, Unavailable
from handlers.database.columns import Columns, Row
from handlers.database.options import DatabaseOptions, parse_url
from handlers.database.server import Database, RowRejected, TableMismatch
from handlers.database.upsert import Upsert

# Bytes of one transaction's rows. A single larger row gets its own.
MAX_BYTES = 8 * 1024 * 1024

Answers = list[Receipt | Exception | None]


class DatabaseSink(Sink[DatabaseOptions]):
    """Writes rows to SQLite or PostgreSQL."""

    Options: ClassVar[type[SinkOptions]] = DatabaseOptions
    batch_size: ClassVar[int] = 256

    def __init__(self, name: str, options: DatabaseOptions, services: Services) -> None:
        super().__init__(name, options, services)
        self._columns = Columns(options.columns)
        self._database = Database(parse_url(options.url.get_secret_value()), options.timeout)
        self._upsert = Upsert(options.table, self._columns, self._database.dialect)
        self._table_checked = False
        self._preparing = threading.Lock()

    def send(self, delivery: Delivery) -> Receipt:
        """Write the row. The receipt's id is table/run_id; a note says so when the row already holds a newer event."""
        (answer,) = self.send_many([delivery])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def send_many(self, deliveries: Sequence[Delivery]) -> list[Receipt | Exception]:
        """Write the rows in one transaction of one statement, unless a run occurs twice or the batch is very large."""
        deadline = time.monotonic() + self.options.timeout
        now = datetime.now(UTC)
        answers: Answers = [None] * len(deliveries)
        rows: list[tuple[int, Row]] = []
        for number, delivery in enumerate(deliveries):
            try:
                rows.append((number, self._columns.row(delivery, now)))
            except Refused as error:
                answers[number] = error
        for part in self._parts(rows):
            self._write(part, answers, deadline)
        assert None not in answers
        return answers  # type: ignore[return-value]

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def _parts(self, rows: Sequence[tuple[int, Row]]) -> Iterator[list[tuple[int, Row]]]:
        part: list[tuple[int, Row]] = []
        size = 0
        for each in rows:
            if part and (size + each[1].size > MAX_BYTES or len(part) == self._upsert.max_rows):
                yield part
                part, size = [], 0
            part.append(each)
            size += each[1].size
        if part:
            yield part

    def _write(self, part: list[tuple[int, Row]], answers: Answers, deadline: float) -> None:
        """Write `part` and set its answers. A part that fails for its data is halved until the bad row is alone."""
        try:
            written = self._in_one_transaction([row for _, row in part], deadline)
        except RowRejected as error:
            if len(part) > 1:
                middle = len(part) // 2
                self._write(part[:middle], answers, deadline)
                self._write(part[middle:], answers, deadline)
            else:
                answers[part[0][0]] = Refused(str(error))
        except Unavailable as error:
            for number, _ in part:
                answers[number] = Unavailable(str(error))
        else:
            for (number, row), fresh in zip(part, written, strict=True):
                answers[number] = Receipt(f"{self.options.table}/{row.run_id}", note=_note(row, fresh))

    def _in_one_transaction(self, rows: Sequence[Row], deadline: float) -> list[bool]:
        """Write the rows. Returns for each whether it was written, or else was older than the table's."""
        self._prepare(deadline)
        written = [False] * len(rows)
        try:
            with self._database.transaction(deadline) as connection:
                for numbers in _rounds(rows):
                    chosen = [rows[number] for number in numbers]
                    fresh = {run_id for (run_id,) in connection.exec_driver_sql(*self._upsert.write(chosen))}
                    if older := [row for row in chosen if row.run_id not in fresh]:
                        connection.exec_driver_sql(*self._upsert.fill(older))
                    for number in numbers:
                        written[number] = rows[number].run_id in fresh
        except TableMismatch as error:
            self._table_checked = False  # checked, and fixed, again before the next attempt
            raise Unavailable(
                f"{error}; {self.options.table} needs a unique run_id: {self._upsert.unique_index()}"
            ) from None
        return written

    def _prepare(self, deadline: float) -> None:
        """Check the table once; create it, or its missing columns, if the option `create` allows it."""
        if self._table_checked:
            return
        if not self._preparing.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise Unavailable("another thread has been checking the table for too long")
        try:
            if not self._table_checked:
                with self._database.transaction(deadline) as connection:
                    self._create_missing(connection)
                self._table_checked = True
        except RowRejected as error:  # another process is creating the same table
            raise Unavailable(f"the table {self.options.table} could not be made: {error}") from None
        finally:
            self._preparing.release()

    def _create_missing(self, connection: sa.Connection) -> None:
        table, options = self._upsert.table, self.options
        if not self._database.is_sqlite:
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext(%(name)s))", {"name": table.fullname})
        inspector = sa.inspect(connection)
        if not inspector.has_table(table.name, table.schema):
            if not options.create:
                raise Unavailable(f"there is no table {options.table}, and create is false")
            connection.exec_driver_sql(self._upsert.create_table())
            return
        missing = self._upsert.missing([each["name"] for each in inspector.get_columns(table.name, table.schema)])
        if missing and not options.create:
            names = ", ".join(column.name for column in missing)
            raise Unavailable(f"the table {options.table} lacks the columns {names}, and create is false")
        for column in missing:
            connection.exec_driver_sql(self._upsert.add_column(column))


def _rounds(rows: Sequence[Row]) -> Iterator[list[int]]:
    """Yield indexes of `rows` in rounds that have each run once, since a statement can't touch a row twice.

    The first round has every run, sorted, so that concurrent batches lock in the same order and never deadlock.
    """
    left = range(len(rows))
    while left:
        seen: set[str] = set()
        first: list[int] = []
        again: list[int] = []
        for number in left:
            (again if rows[number].run_id in seen else first).append(number)
            seen.add(rows[number].run_id)
        yield sorted(first, key=lambda number: rows[number].run_id)
        left = again  # type: ignore[assignment]


def _note(row: Row, written: bool) -> str:
    notes = []
    if not written:
        notes.append("the row holds a newer event of this run, and was left as it is")
    if row.unconverted:
        notes.append(f"null for want of a fitting value: {', '.join(row.unconverted)}")
    return "; ".join(notes)
