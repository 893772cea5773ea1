"""The table, and the two statements that write a batch. Knows SQL, and no connection.

The events of a run are ordered by (attempt, final or not, modified_at, received_at, event id). Final comes before the
time, for within one attempt nothing follows a final event, and an interim one with a fast clock must not hide it. An
event that has no modified_at is as new as its arrival.

write  inserts a run, or follows the event if it is not older than the row: the same event again writes the same again
fill   is for the events that were older. It changes nothing but nulls: a row takes the output (and other facts that
       are kept) of an older event of the same attempt and status, as it would have, had the two come in order
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
from handlers.database.table import Col
from handlers.database.values import INT64

FINAL = ("completed", "failed", "terminated", "timed_out", "canceled")

OnConflict = Callable[[Any], Any]
Statement = tuple[str, Any]
"""SQL in the driver's own form, and its parameters."""

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
    """For one table and one dialect: "postgresql" or "sqlite"."""

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
            *(sa.Column(col.name, self._types[col.kind], primary_key=col.name == "run_id") for col in columns.all),
        )
        self._statement = lru_cache(maxsize=256)(self._built)

    @property
    def max_rows(self) -> int:
        """How many rows one statement takes."""
        return 10_000 if self._postgresql else 32_000 // len(self._columns.all)

    def write(self, rows: Sequence[Row]) -> Statement:
        """Write `rows`, each of another run. It returns the run_id of each that was written."""
        return self._with_parameters(rows, self._set_all)

    def fill(self, rows: Sequence[Row]) -> Statement:
        """Fill nulls from `rows`, which `write` found to be older than what is there."""
        return self._with_parameters(rows, self._set_nulls)

    def _with_parameters(self, rows: Sequence[Row], on_conflict: OnConflict) -> Statement:
        if self._postgresql:
            return self._statement(on_conflict, 0), {"rows": _recordset(self._columns.names, rows)}
        parameters = tuple(_for_sqlite(cell) for row in rows for cell in row.values)
        return self._statement(on_conflict, len(rows)), parameters

    def missing(self, present: Sequence[str]) -> list[Col]:
        """The columns that a table with the columns `present` lacks."""
        there = {name.lower() for name in present}
        return [col for col in self._columns.all if col.name.lower() not in there]

    def create_table(self) -> str:
        """The statement that makes the table, where there is none."""
        return str(sa.schema.CreateTable(self.table, if_not_exists=True).compile(dialect=self._dialect)).strip()

    def add_column(self, col: Col) -> str:
        """The statement that adds a column that an existing table lacks."""
        preparer = self._dialect.identifier_preparer
        kind = self._types[col.kind].compile(dialect=self._dialect)
        return f"ALTER TABLE {preparer.format_table(self.table)} ADD COLUMN {preparer.quote(col.name)} {kind}"

    def unique_index(self) -> str:
        """The statement that makes run_id unique, to be shown to an operator whose own table lacks it."""
        return f"CREATE UNIQUE INDEX ON {self.table.fullname} (run_id)"

    def _built(self, on_conflict: OnConflict, count: int) -> str:
        """The SQL for `count` rows; on PostgreSQL for any number."""
        insert = on_conflict(self._insert_recordset() if self._postgresql else self._insert_one())
        sql = str(insert.returning(self.table.c.run_id).compile(dialect=self._dialect))
        if self._postgresql:
            return sql
        one = "(" + ", ".join("?" * len(self._columns.all)) + ")"
        return sql.replace(one, ", ".join([one] * count), 1)

    def _insert_recordset(self) -> Any:
        # One parameter for the whole batch: 256 rows of 27 columns as parameters of their own cost the driver more
        # than the database needs to write them.
        rows = sa.func.json_to_recordset(sa.cast(sa.bindparam("rows", type_=sa.Text()), sa.JSON()))
        new = rows.table_valued(*(sa.column(col.name, self._types[col.kind]) for col in self._columns.all))
        new = new.render_derived(name="new", with_types=True)
        return postgresql.insert(self.table).from_select(self._columns.names, sa.select(*new.c))

    def _insert_one(self) -> Any:
        return sqlite.insert(self.table).values({name: sa.bindparam(f"new_{name}") for name in self._columns.names})

    def _set_all(self, insert: Any) -> Any:
        old, new = self.table.c, insert.excluded
        return insert.on_conflict_do_update(
            index_elements=[old.run_id],
            set_={
                col.name: sa.case((self._same(insert), _first(new[col.name], old[col.name])), else_=new[col.name])
                if col.keep
                else new[col.name]
                for col in self._columns.all
                if col.name != "run_id"
            },
            where=self._order(new) >= self._order(old),
        )

    def _set_nulls(self, insert: Any) -> Any:
        old, new = self.table.c, insert.excluded
        return insert.on_conflict_do_update(
            index_elements=[old.run_id],
            set_={col.name: _first(old[col.name], new[col.name]) for col in self._columns.all if col.keep},
            where=self._same(insert),
        )

    def _same(self, insert: Any) -> ColumnElement[bool]:
        old, new = self.table.c, insert.excluded
        return sa.and_(old.attempt == new.attempt, old.status == new.status)

    def _order(self, row: Any) -> Any:
        """What the events of a run are ordered by. Rows that were there before us may have nulls."""
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
    """The first that holds something. To Skyvern {} and [] are nothing, as null is."""
    if one.name != "output":
        return sa.func.coalesce(one, other)
    holds = sa.cast(one, sa.Text()).not_in([sa.literal_column("'{}'"), sa.literal_column("'[]'")])
    return sa.case((sa.and_(one.is_not(None), holds), one), else_=sa.func.coalesce(other, one))


def _recordset(names: Sequence[str], rows: Sequence[Row]) -> str:
    """The rows as one JSON array of objects; what is JSON already goes in as it is."""
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
    """SQLite holds no decimals, no times and no JSON of its own."""
    if isinstance(cell, bytes):
        return cell.decode()
    if isinstance(cell, datetime):
        return cell.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
    if isinstance(cell, Decimal):
        whole = cell == cell.to_integral_value()
        return int(cell) if whole and int(cell) in INT64 else float(cell)
    return cell
