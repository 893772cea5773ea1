"""Compare a table with the columns that the sink would write, and create or alter it on request.

A missing table is created with all columns. In an existing one, only the columns from the config are added
automatically; `runhook sink columns --apply` adds the rest. Two versions of Runhook may use the table, other programs
read it, and another user may own it. Missing standard columns are not written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from handlers.contract import Unavailable
from handlers.database.columns import Columns
from handlers.database.results_table import ResultsTable
from handlers.database.table import EVENT_KEY, REQUIRED, RUN_KEY, Column


@dataclass(frozen=True, slots=True)
class Inspected:
    """The state of a table.

    `usable`: columns that can be written; all of them before the table exists. `missing`: columns that it lacks.
    `unlike`: "name (TYPE)" of standard columns with a wrong type, which are not written. `unfilled`: other columns that
    are NOT NULL without a default, so inserts fail.
    """

    exists: bool
    usable: tuple[Column, ...]
    missing: tuple[Column, ...] = ()
    unlike: tuple[str, ...] = ()
    unfilled: tuple[str, ...] = ()


class TableInspection:
    """One table of the sink `sink`. `all_events`: the one with a row for each event."""

    def __init__(self, sink: str, table: str, columns: Columns, dialect: str, *, all_events: bool = False) -> None:
        self._sink = sink
        self._name = table
        self._columns = columns
        self._dialect = dialect
        self._key = EVENT_KEY if all_events else RUN_KEY
        self._whole = self.table(columns.all)

    def table(self, columns: Sequence[Column]) -> ResultsTable:
        """Return the table with only `columns`."""
        return ResultsTable(self._name, columns, self._dialect, self._key)

    def look(self, connection: sa.Connection) -> Inspected:
        """Read which columns the table has."""
        if not self._whole.postgresql:
            return self._compare(connection)
        # One process at a time: a concurrent CREATE TABLE IF NOT EXISTS fails.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext(%(name)s))", {"name": self._name})
        return self._compare(connection)

    def prepare(self, connection: sa.Connection, create: bool) -> Inspected:
        """Create the table if missing, and add the operator's columns, if `create` allows.

        Raises Unavailable, with the remedy, when rows can't be written.
        """
        state = self.look(connection)
        if not state.exists:
            if not create:
                raise Unavailable(f"the table {self._name} does not exist, and create is false")
            for statement in self.plan(state):
                connection.exec_driver_sql(statement)
            return state
        if needed := [column.name for column in state.missing if column.name in REQUIRED]:
            raise Unavailable(f"the table {self._name} lacks the required columns {', '.join(needed)}: {self.remedy}")
        if unlike := [each for each in state.unlike if each.partition(" ")[0] in REQUIRED]:
            raise Unavailable(f"the table {self._name} has the wrong type in the required columns {', '.join(unlike)}")
        own = [column for column in state.missing if column in self._columns.own]
        if own and not create:
            names = ", ".join(column.name for column in own)
            raise Unavailable(f"the table {self._name} lacks the columns {names}, and create is false: {self.remedy}")
        for column in own:
            connection.exec_driver_sql(self._whole.add_column(column))
        missing = tuple(column for column in state.missing if column not in own)
        return replace(state, usable=(*state.usable, *own), missing=missing)

    def plan(self, state: Inspected) -> list[str]:
        """Return the statements that add missing columns."""
        if state.exists:
            return [self._whole.add_column(column) for column in state.missing]
        index = [] if self._key == RUN_KEY else [self._whole.create_index("run_id")]
        return [self._whole.create_table(), *index]

    def notice(self, state: Inspected) -> str:
        """Return a warning about the table for operators, or ""."""
        parts = []
        if state.missing:
            names = ", ".join(column.name for column in state.missing)
            parts.append(f"the table {self._name} lacks the columns {names}, which are not written: {self.remedy}")
        if state.unlike:
            parts.append(f"columns of {self._name} with another type are not written: {', '.join(state.unlike)}")
        return "; ".join(parts)

    @property
    def remedy(self) -> str:
        """The command that shows and adds missing columns."""
        return f"`runhook sink columns {self._sink}` shows the SQL, and adds them with --apply"

    def _compare(self, connection: sa.Connection) -> Inspected:
        inspector = sa.inspect(connection)
        table = self._whole.table
        if not inspector.has_table(table.name, table.schema):
            return Inspected(False, self._columns.all)
        columns = inspector.get_columns(table.name, table.schema)
        present = {each["name"].lower(): each["type"] for each in columns}
        missing = tuple(column for column in self._columns.all if column.name.lower() not in present)
        unlike = {
            column: f"{column.name} ({present[column.name.lower()]})"
            for column in self._columns.all
            if column.name.lower() in present
            and column in self._columns.standard
            and self._whole.postgresql  # SQLite stores any value in any column
            and not isinstance(present[column.name.lower()], _ALIKE[column.kind])
        }
        usable = tuple(column for column in self._columns.all if column not in missing and column not in unlike)
        ours = {column.name.lower() for column in self._columns.all}
        filled = ("default", "identity", "computed", "primary_key")
        unfilled = tuple(
            each["name"]
            for each in columns
            if not each["nullable"] and each["name"].lower() not in ours and not any(map(each.get, filled))
        )
        return Inspected(True, usable, missing, tuple(unlike.values()), unfilled)


_ALIKE: dict[str, type | tuple[type, ...]] = {
    "text": sa.String,
    "integer": (sa.Integer, sa.Numeric),
    "number": (sa.Numeric, sa.Integer),
    "boolean": sa.Boolean,
    "timestamp": sa.DateTime,
    "json": postgresql.JSONB,
}
