"""Build the SQL of one table. Knows SQL, and no connection.

insert  inserts rows that are not there, and returns which were not
kept    locks rows that were there, and returns what merging needs of them: their order, and how much each column holds
cells   reads columns of one of those
update  writes columns of such rows
put     inserts a row or overwrites all of it, for the table of all events
"""

# ruff: noqa: S608 - names are those of table.py and of the options, which are checked at load; values are parameters

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from handlers.database.sent_rows import ByColumn, SentRows
from handlers.database.table import MERGED_FROM, REQUIRED, SOURCE, Column
from handlers.database.values import INT64
from handlers.support.postgresql import Execution
from handlers.support.postgresql import Statement as DriverStatement
from handlers.support.timestamps import utc

# What finds a value that is neither null nor an object or a list.
_SOME_VALUE: Final = 'strict $.** ? (@.type() == "string" || @.type() == "number" || @.type() == "boolean")'

# SQL in the driver's paramstyle, and its parameters.
Statement = tuple[str, Any]
Cells = Mapping[str, Any]
# A row's values of the key columns.
Key = tuple[str, ...]

POSTGRESQL: Final[Mapping[str, sa.types.TypeEngine[Any]]] = {
    "text": sa.Text(),
    "integer": sa.BigInteger(),
    "number": sa.Numeric(),
    "boolean": sa.Boolean(),
    "timestamp": sa.DateTime(timezone=True),
    "json": postgresql.JSONB(),
}
# TEXT for JSON: the type name JSON has numeric affinity there, and would turn the text 1e3 into a number.
SQLITE: Final = {**POSTGRESQL, "timestamp": sa.DateTime(), "json": sa.Text()}


class Statements:
    """The statements for `columns` of one table, whose rows are identified by the columns `key`, which are text.

    `dialect`: "postgresql" or "sqlite".
    """

    def __init__(self, table: str, columns: Sequence[Column], dialect: str, key: Sequence[str]) -> None:
        schema, _, name = table.rpartition(".")
        self.columns = tuple(columns)
        self.key = tuple(key)
        self.postgresql = dialect == "postgresql"
        self._types = POSTGRESQL if self.postgresql else SQLITE
        dialects: Any = postgresql if self.postgresql else sqlite
        self._dialect = dialects.dialect(paramstyle="pyformat" if self.postgresql else "qmark")
        self._by_name = {column.name: column for column in self.columns}
        self.table = sa.Table(
            name,
            sa.MetaData(schema=schema or None),
            *(
                sa.Column(
                    column.name,
                    self._types[column.kind],
                    nullable=column.name not in key,
                    # Rows of other programs may name no source.
                    server_default="" if column.name == SOURCE and SOURCE in key else None,
                )
                for column in columns
            ),
            sa.PrimaryKeyConstraint(*key),
        )
        self._name = self._dialect.identifier_preparer.format_table(self.table)
        self._sent = SentRows(self.columns, self._quoted)
        # Texts that do not depend on the rows: to make them was a tenth of what a batch of one row cost.
        self._values = lru_cache(maxsize=256)(self._build_values)
        self._list = lru_cache(maxsize=256)(self._build_list)
        self._recordset = lru_cache(maxsize=256)(self._build_recordset)
        self._driver_statement = cache(DriverStatement)

    @property
    def max_rows(self) -> int:
        """How many rows one statement takes at most."""
        return 10_000 if self.postgresql else 32_000 // len(self.columns)

    # --- Rows

    def insert(self, rows: ByColumn) -> Statement:
        """Return the statement that inserts those of `rows` that are not there; its result is their keys."""
        names = tuple(self._by_name)
        source, parameters = self._source(names, rows)
        key = self._list(self.key)
        return (
            f"INSERT INTO {self._name} ({self._list(names)}) {source} ON CONFLICT ({key}) DO NOTHING RETURNING {key}",
            parameters,
        )

    def put(self, rows: ByColumn) -> Statement:
        """Return the statement that inserts or overwrites `rows`, each of another key.

        What a row has of its run stays where the new one has nothing: one event may be sent with more and with less of
        that, and what was sent first may come last.
        """
        names = tuple(self._by_name)
        source, parameters = self._source(names, rows)
        sets = ", ".join(self._put_one(self._by_name[name]) for name in names if name not in self.key)
        key = self._list(self.key)
        return (
            f"INSERT INTO {self._name} AS kept ({self._list(names)}) {source} ON CONFLICT ({key}) DO UPDATE SET {sets}",
            parameters,
        )

    def _put_one(self, column: Column) -> str:
        name = self._quoted(column.name)
        new = f"excluded.{name}"
        return f"{name} = {new}" if column.scope == "event" else f"{name} = COALESCE({new}, kept.{name})"

    def kept(self, keys: Sequence[Key]) -> Statement:
        """Return the statement that reads, and on PostgreSQL locks, the rows of `keys`. `read_kept` reads its rows."""
        parts = [self._read(self._by_name[name]) for name in self._ordering()]
        parts += [self._weight(column) for column in self._kept()]
        key = self._list(self.key)
        select = f"SELECT {', '.join(parts)} FROM {self._name} WHERE ({key}) IN"
        if self.postgresql:  # sorted, so that concurrent batches lock in the same order and never deadlock
            arrays = ", ".join(f"CAST(%({name})s AS text[])" for name in self.key)
            given = {name: [each[place] for each in keys] for place, name in enumerate(self.key)}
            return f"{select} (SELECT * FROM unnest({arrays})) ORDER BY {key} FOR UPDATE", given
        one = f"({', '.join('?' * len(self.key))})"
        return f"{select} (VALUES {', '.join([one] * len(keys))})", tuple(part for each in keys for part in each)

    def read_kept(self, row: Sequence[Any]) -> tuple[dict[str, Any], dict[str, int | None]]:
        """Return a row of `kept` as cells (JSON as text) and weights by column."""
        names = self._ordering()
        cells = {
            name: self._value(self._by_name[name], cell) for name, cell in zip(names, row[: len(names)], strict=True)
        }
        weights = dict(zip((column.name for column in self._kept()), row[len(names) :], strict=True))
        return cells, weights

    def cells(self, names: Sequence[str], key: Key) -> Statement:
        """Return the statement that reads the columns `names` of one row. `read_cells` reads its row."""
        columns = ", ".join(self._read(self._by_name[name]) for name in names)
        where = " AND ".join(f"{self._quoted(name)} = {f'%({name})s' if self.postgresql else '?'}" for name in self.key)
        given = dict(zip(self.key, key, strict=True)) if self.postgresql else tuple(key)
        return f"SELECT {columns} FROM {self._name} WHERE {where}", given

    def read_cells(self, names: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
        """Return a row of `cells` as cells such as a delivery's."""
        return {name: self._value(self._by_name[name], cell) for name, cell in zip(names, row, strict=True)}

    def update(self, names: Sequence[str], rows: Sequence[Cells]) -> Statement:
        """Return the statement that writes the columns `names` of `rows`, which also hold their key."""
        if self.postgresql:
            same = " AND ".join(f"old.{self._quoted(name)} = new.{self._quoted(name)}" for name in self.key)
            sets = ", ".join(f"{self._quoted(name)} = new.{self._quoted(name)}" for name in names)
            columns = (*self.key, *names)
            return (
                f"UPDATE {self._name} AS old SET {sets} FROM {self._recordset(columns)} WHERE {same}",
                {"rows": _records(columns, rows)},
            )
        sets = ", ".join(f"{self._quoted(name)} = ?" for name in names)
        parameters = [tuple(_for_sqlite(row[name]) for name in (*names, *self.key)) for row in rows]
        where = " AND ".join(f"{self._quoted(name)} = ?" for name in self.key)
        return f"UPDATE {self._name} SET {sets} WHERE {where}", parameters

    def at_once(self, statement: Statement) -> Execution:
        """Return a statement for PostgreSQL with rows, for `Database.at_once`."""
        sql, parameters = statement
        return Execution(self._driver_statement(sql), parameters)

    # --- The table

    def create_table(self) -> str:
        """Return the statement that creates the table if it does not exist."""
        return str(sa.schema.CreateTable(self.table, if_not_exists=True).compile(dialect=self._dialect)).strip()

    def create_index(self, name: str) -> str:
        """Return the statement that creates an index on the column `name` if it does not exist."""
        index = f"{self.table.name[:40]}_{name}"
        return f"CREATE INDEX IF NOT EXISTS {self._quoted(index)} ON {self._name} ({self._quoted(name)})"

    def add_column(self, column: Column) -> str:
        """Return the statement that adds a column to the table."""
        kind = self._types[column.kind].compile(dialect=self._dialect)
        return f"ALTER TABLE {self._name} ADD COLUMN {self._quoted(column.name)} {kind}"

    def unique_index(self) -> str:
        """Return the statement that makes the key unique, to show to an operator whose own table lacks that."""
        return f"CREATE UNIQUE INDEX ON {self.table.fullname} ({', '.join(self.key)})"

    # --- Parts

    def _ordering(self) -> list[str]:
        return [name for name in self._by_name if name in REQUIRED or name in (SOURCE, MERGED_FROM.name)]

    def _kept(self) -> list[Column]:
        return [column for column in self.columns if column.scope != "event"]

    def _source(self, names: tuple[str, ...], rows: ByColumn) -> tuple[str, Any]:
        if self.postgresql:
            return self._sent.source(rows)
        columns = [rows[name] for name in names]
        parameters = tuple([_for_sqlite(cell) for row in zip(*columns, strict=True) for cell in row])
        return self._values(len(columns[0])), parameters

    def _build_values(self, count: int) -> str:
        one = f"({', '.join('?' * len(self.columns))})"
        return f"VALUES {', '.join([one] * count)}"

    def _build_recordset(self, names: tuple[str, ...]) -> str:
        columns = ", ".join(
            f"{self._quoted(name)} {self._types[self._by_name[name].kind].compile(dialect=self._dialect)}"
            for name in names
        )
        return f"json_to_recordset(CAST(%(rows)s AS json)) AS new({columns})"

    def _read(self, column: Column) -> str:
        """Return the expression that reads a column; times as text, for a driver can't read all that a column holds."""
        name = self._quoted(column.name)
        if self.postgresql and column.kind == "json":
            return f"CAST({name} AS text)"
        if self.postgresql and column.kind == "timestamp":
            return f"to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')"
        return name

    def _value(self, column: Column, cell: Any) -> Any:
        if cell is None:
            return None
        if column.kind == "timestamp":
            return utc(str(cell))
        if column.kind == "json":
            return str(cell).encode()
        if column.kind == "boolean":
            return bool(cell)
        return Decimal(str(cell)) if column.kind == "number" else cell

    def _weight(self, column: Column) -> str:
        """Return the expression that counts what a column holds: as `merge.weight_of`, and null for null."""
        name = self._quoted(column.name)
        count = "0"
        if column.prefers == "filled":
            # Both end at the first value that is there.
            some = f"jsonb_path_exists({name}, '{_SOME_VALUE}')"
            if not self.postgresql:
                tree = f"SELECT 1 FROM json_tree({name}) WHERE type NOT IN ('null', 'object', 'array')"
                some = f"NOT json_valid({name}) OR EXISTS ({tree})"
            count = f"CASE WHEN {some} THEN 1 ELSE 0 END"
        elif column.prefers == "longest" and self.postgresql:
            count = (
                f"CASE jsonb_typeof({name}) WHEN 'array' THEN jsonb_array_length({name}) "
                f"WHEN 'object' THEN (SELECT count(*) FROM jsonb_object_keys({name})) ELSE 1 END"
            )
        elif column.prefers == "longest":
            count = f"CASE WHEN json_valid({name}) THEN (SELECT count(*) FROM json_each({name})) ELSE 1 END"
        return f"CASE WHEN {name} IS NOT NULL THEN {count} END"

    def _build_list(self, names: tuple[str, ...]) -> str:
        return ", ".join(self._quoted(name) for name in names)

    def _quoted(self, name: str) -> str:
        return str(self._dialect.identifier_preparer.quote(name))


def _records(names: Sequence[str], rows: Sequence[Cells]) -> str:
    """Return the rows as one JSON array of objects; values that are JSON already are inserted as they are."""
    records = [{name: _for_json(cell) for name in names if (cell := row[name]) is not None} for row in rows]
    return orjson.dumps(records).decode()


def _for_json(cell: Any) -> Any:
    kind = type(cell)
    if kind is bytes:
        return orjson.Fragment(cell)
    if kind is Decimal:
        return orjson.Fragment(str(cell))
    return cell  # text, int of 64 bits, bool, datetime


def _decimal_for_sqlite(number: Decimal) -> int | float:
    whole = number == number.to_integral_value()
    return int(number) if whole and int(number) in INT64 else float(number)


# What SQLite has no types for, and how it is written there.
_WRITTEN: Final[Mapping[type, Callable[[Any], Any]]] = {
    bytes: bytes.decode,
    datetime: lambda moment: moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds"),
    Decimal: _decimal_for_sqlite,
}


def _for_sqlite(cell: Any) -> Any:
    """Convert decimals, times and JSON."""
    write = _WRITTEN.get(type(cell))
    return cell if write is None else write(cell)
