"""Build the SQL that creates the table and upserts a batch. Knows SQL, and no connection.

The events of a run are ordered by (attempt, final or not, modified_at, received_at, event id). Final comes before the
time, since within one attempt nothing follows a final event, and an interim one with a fast clock must not hide it. An
event without modified_at counts as modified when it was received.

write  inserts a run, or overwrites the row if the event is not older; the same event again writes the same values
fill   is for events that were older. It changes only nulls: a row gets the output (and other `keep_on_null` columns) of
       an older event of the same attempt and status, as if the two had come in order
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement

from handlers.database.columns import Columns, Row
from handlers.database.table import Column
from handlers.database.values import INT64

FINAL = ("completed", "failed", "terminated", "timed_out", "canceled")

OnConflict = Callable[[Any], Any]
# SQL in the driver's paramstyle, and its parameters.
Statement = tuple[str, Any]

_POSTGRESQL: dict[str, sa.types.TypeEngine[Any]] = {
    "text": sa.Text(),
    "integer": sa.BigInteger(),
    "number": sa.Numeric(),
    "boolean": sa.Boolean(),
    "timestamp": sa.DateTime(timezone=True),
    "json": postgresql.JSONB(),
}
# TEXT for JSON: the type name JSON has numeric affinity there, and would turn the text 1e3 into a number.
_SQLITE: dict[str, sa.types.TypeEngine[Any]] = {**_POSTGRESQL, "timestamp": sa.DateTime(), "json": sa.Text()}


class Upsert:
    """The statements for one table and one dialect: "postgresql" or "sqlite"."""

    def __init__(self, table: str, columns: Columns, dialect: str) -> None:
        schema, _, name = table.rpartition(".")
        self._types = _POSTGRESQL if dialect == "postgresql" else _SQLITE
        self._columns = columns
        self._postgresql = dialect == "postgresql"
        dialects: Any = postgresql if self._postgresql else sqlite
        self._dialect = dialects.dialect(paramstyle="pyformat" if self._postgresql else "qmark")
        self.table = sa.Table(
            name,
            sa.MetaData(schema=schema or None),
            *(
                sa.Column(column.name, self._types[column.kind], primary_key=column.name == "run_id")
                for column in columns.all
            ),
        )
        self._statement = lru_cache(maxsize=256)(self._build)

    @property
    def max_rows(self) -> int:
        """How many rows one statement takes at most."""
        return 10_000 if self._postgresql else 32_000 // len(self._columns.all)

    def write(self, rows: Sequence[Row]) -> Statement:
        """Return the statement that writes `rows`, each of another run; its result is the run_ids written."""
        return self._with_parameters(rows, self._overwrite)

    def fill(self, rows: Sequence[Row]) -> Statement:
        """Return the statement that fills nulls from `rows`, which `write` found to be older than the table's."""
        return self._with_parameters(rows, self._fill_nulls)

    def _with_parameters(self, rows: Sequence[Row], on_conflict: OnConflict) -> Statement:
        if self._postgresql:
            return self._statement(on_conflict, 0), {"rows": _recordset(self._columns.names, rows)}
        parameters = tuple(_for_sqlite(cell) for row in rows for cell in row.values)
        return self._statement(on_conflict, len(rows)), parameters

    def missing(self, present: Sequence[str]) -> list[Column]:
        """Return the columns that a table with the columns `present` lacks."""
        there = {name.lower() for name in present}
        return [column for column in self._columns.all if column.name.lower() not in there]

    def create_table(self) -> str:
        """Return the statement that creates the table if it does not exist."""
        return str(sa.schema.CreateTable(self.table, if_not_exists=True).compile(dialect=self._dialect)).strip()

    def add_column(self, column: Column) -> str:
        """Return the statement that adds a column to the table."""
        preparer = self._dialect.identifier_preparer
        kind = self._types[column.kind].compile(dialect=self._dialect)
        return f"ALTER TABLE {preparer.format_table(self.table)} ADD COLUMN {preparer.quote(column.name)} {kind}"

    def unique_index(self) -> str:
        """Return the statement that makes run_id unique, to show to an operator whose own table lacks that."""
        return f"CREATE UNIQUE INDEX ON {self.table.fullname} (run_id)"

    def _build(self, on_conflict: OnConflict, count: int) -> str:
        """Build the SQL for `count` rows; on PostgreSQL for any number."""
        insert = on_conflict(self._insert_recordset() if self._postgresql else self._insert_one())
        sql = str(insert.returning(self.table.c.run_id).compile(dialect=self._dialect))
        if self._postgresql:
            return sql
        one = "(" + ", ".join("?" * len(self._columns.all)) + ")"
        return sql.replace(one, ", ".join([one] * count), 1)

    def _insert_recordset(self) -> Any:
        # One parameter for the whole batch: with one for each of 256 rows × 27 columns, the driver takes longer than
        # the database needs to write them.
        rows = sa.func.json_to_recordset(sa.cast(sa.bindparam("rows", type_=sa.Text()), sa.JSON()))
        new = rows.table_valued(*(sa.column(column.name, self._types[column.kind]) for column in self._columns.all))
        new = new.render_derived(name="new", with_types=True)
        return postgresql.insert(self.table).from_select(self._columns.names, sa.select(*new.c))

    def _insert_one(self) -> Any:
        return sqlite.insert(self.table).values({name: sa.bindparam(f"new_{name}") for name in self._columns.names})

    def _overwrite(self, insert: Any) -> Any:
        old, new = self.table.c, insert.excluded
        return insert.on_conflict_do_update(
            index_elements=[old.run_id],
            set_={
                column.name: sa.case(
                    (self._same(insert), _first(new[column.name], old[column.name])), else_=new[column.name]
                )
                if column.keep_on_null
                else new[column.name]
                for column in self._columns.all
                if column.name != "run_id"
            },
            where=self._order(new) >= self._order(old),
        )

    def _fill_nulls(self, insert: Any) -> Any:
        old, new = self.table.c, insert.excluded
        return insert.on_conflict_do_update(
            index_elements=[old.run_id],
            set_={
                column.name: _first(old[column.name], new[column.name])
                for column in self._columns.all
                if column.keep_on_null
            },
            where=self._same(insert),
        )

    def _same(self, insert: Any) -> ColumnElement[bool]:
        old, new = self.table.c, insert.excluded
        return sa.and_(old.attempt == new.attempt, old.status == new.status)

    def _order(self, row: Any) -> Any:
        """Return the sort key of a run's events. Rows of an operator's own table may have nulls."""
        never: ColumnElement[Any] = sa.literal_column("'-infinity'::timestamptz" if self._postgresql else "''")
        ended = sa.and_(
            row.status.in_([sa.literal_column(f"'{word}'") for word in FINAL]), row.retry_pending.is_not(True)
        )
        return sa.tuple_(
            sa.func.coalesce(row.attempt, sa.literal_column("0")),
            sa.case((ended, sa.literal_column("1")), else_=sa.literal_column("0")),
            sa.func.coalesce(row.modified_at, row.received_at, never),
            sa.func.coalesce(row.received_at, never),
            sa.func.coalesce(row.event_id, sa.literal_column("''")),
        )


def _first(one: Any, other: Any) -> ColumnElement[Any]:
    """Return the first that is not empty. In `output`, {} and [] count as empty, as in Skyvern."""
    if one.name != "output":
        return sa.func.coalesce(one, other)
    holds = sa.cast(one, sa.Text()).not_in([sa.literal_column("'{}'"), sa.literal_column("'[]'")])
    return sa.case((sa.and_(one.is_not(None), holds), one), else_=sa.func.coalesce(other, one))


def _recordset(names: Sequence[str], rows: Sequence[Row]) -> str:
    """Return the rows as one JSON array of objects; values that are JSON already are inserted as they are."""
    records = [
        {name: _for_json(cell) for name, cell in zip(names, row.values, strict=True) if cell is not None}
        for row in rows
    ]
    return orjson.dumps(records).decode()


def _for_json(cell: Any) -> Any:
    kind = type(cell)
    if kind is bytes:
        return orjson.Fragment(cell)
    if kind is Decimal:
        return orjson.Fragment(str(cell))
    return cell  # text, int of 64 bits, bool, datetime


def _for_sqlite(cell: Any) -> Any:
    """Convert decimals, times and JSON, for which SQLite has no types."""
    if isinstance(cell, bytes):
        return cell.decode()
    if isinstance(cell, datetime):
        return cell.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
    if isinstance(cell, Decimal):
        whole = cell == cell.to_integral_value()
        return int(cell) if whole and int(cell) in INT64 else float(cell)
    return cell
