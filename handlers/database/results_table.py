"""One table, as SQLAlchemy Core statements: read, lock, insert and overwrite rows, create the table.

PostgreSQL takes all rows of a statement as one JSON parameter, since thousands of parameters cost the driver more time
than the server needs to write the rows. SQLite takes them by `executemany`. This module opens no connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from handlers.database.table import SOURCE, Column
from handlers.database.values import INT64
from handlers.support.timestamps import utc

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
_TIME_FORMAT: Final = 'YYYY-MM-DD"T"HH24:MI:SS.US'


class ResultsTable:
    """The statements for `columns` of one table, whose rows are identified by the columns `key`, which are text.

    `name`: may include a schema. `dialect`: "postgresql" or "sqlite".
    """

    def __init__(self, name: str, columns: Sequence[Column], dialect: str, key: Sequence[str]) -> None:
        schema, _, bare = name.rpartition(".")
        self.columns = tuple(columns)
        self.key = tuple(key)
        self.postgresql = dialect == "postgresql"
        types = POSTGRESQL if self.postgresql else SQLITE
        self._dialect: sa.Dialect = (postgresql if self.postgresql else sqlite).dialect()
        # Rows of other programs may lack a source.
        defaults = {SOURCE: ""} if SOURCE in key else {}
        self.table = sa.Table(
            bare,
            sa.MetaData(schema=schema or None),
            *(
                sa.Column(
                    column.name,
                    types[column.kind],
                    nullable=column.name not in key,
                    server_default=defaults.get(column.name),
                )
                for column in columns
            ),
            sa.PrimaryKeyConstraint(*key),
        )
        # Rows are converted below: SQLAlchemy's types would round numbers, and reject times of other programs.
        self._untyped = sa.table(bare, *(sa.column(column.name) for column in columns), schema=schema or None)
        insert, excluded = self._insert()
        keys = [self._untyped.c[name] for name in self.key]
        others = [column for column in columns if column.name not in key]
        self._insert_new = insert.on_conflict_do_nothing(index_elements=self.key).returning(*keys)
        self._overwrite = insert.on_conflict_do_update(
            index_elements=self.key, set_={column.name: excluded[column.name] for column in others}
        )
        kept = {
            column.name: sa.func.coalesce(excluded[column.name], self._untyped.c[column.name])
            for column in others
            if column.scope != "event"
        }
        self._complete = insert.on_conflict_do_update(
            index_elements=self.key,
            set_={column.name: kept.get(column.name, excluded[column.name]) for column in others},
        )
        given = self._records(self.key) if self.postgresql else sa.bindparam("keys", expanding=True)
        self._select = (
            sa.select(*map(self._read, columns)).where(sa.tuple_(*keys).in_(given)).order_by(*keys).with_for_update()
        )

    def key_of(self, cells: Cells) -> Key:
        """Return the values of the key columns."""
        return tuple([cells[name] for name in self.key])

    def insert_new(self, connection: sa.Connection, rows: Sequence[Cells]) -> set[Key]:
        """Insert the rows whose key the table lacks. Returns their keys."""
        return {tuple(row) for row in connection.execute(self._insert_new, self._parameters(rows))}

    def read(self, connection: sa.Connection, keys: Sequence[Key]) -> list[dict[str, Any]]:
        """Return the rows of `keys`. PostgreSQL locks them in the order of their keys, so writers never deadlock."""
        given = [dict(zip(self.key, key, strict=True)) for key in keys]
        parameters = {"rows": orjson.dumps(given).decode()} if self.postgresql else {"keys": list(keys)}
        return [
            {column.name: _value(column.kind, cell) for column, cell in zip(self.columns, row, strict=True)}
            for row in connection.execute(self._select, parameters)
        ]

    def overwrite(self, connection: sa.Connection, rows: Sequence[Cells]) -> None:
        """Write complete rows, each with another key."""
        connection.execute(self._overwrite, self._parameters(rows))

    def complete(self, connection: sa.Connection, rows: Sequence[Cells]) -> None:
        """Insert or overwrite rows, each with another key. Nulls keep the run's stored values: an older send, which
        started before the run was bound to its submission, may end last."""
        connection.execute(self._complete, self._parameters(rows))

    def delete_run(self, connection: sa.Connection, source: str, run_id: str) -> None:
        """Delete the rows of a run."""
        columns = self._untyped.c
        connection.execute(sa.delete(self._untyped).where(columns.run_id == run_id, columns[SOURCE] == source))

    def create_table(self) -> str:
        """Return the statement that creates the table if it does not exist."""
        return str(sa.schema.CreateTable(self.table, if_not_exists=True).compile(dialect=self._dialect)).strip()

    def create_index(self, name: str) -> str:
        """Return the statement that creates an index on the column `name` if it does not exist."""
        index = sa.Index(f"{self.table.name[:40]}_{name}", self.table.c[name])
        return str(sa.schema.CreateIndex(index, if_not_exists=True).compile(dialect=self._dialect))

    def add_column(self, column: Column) -> str:
        """Return the statement that adds a column to the table."""
        quoted = self._dialect.identifier_preparer
        kind = (POSTGRESQL if self.postgresql else SQLITE)[column.kind].compile(dialect=self._dialect)
        return f"ALTER TABLE {quoted.format_table(self.table)} ADD COLUMN {quoted.quote(column.name)} {kind}"

    def unique_index(self) -> str:
        """Return the statement that makes the key unique, for a message to the operator."""
        return f"CREATE UNIQUE INDEX ON {self.table.fullname} ({', '.join(self.key)})"

    def _insert(self) -> tuple[Any, Any]:
        """Return the INSERT, and the `excluded` columns for conflicts."""
        names = [column.name for column in self.columns]
        if not self.postgresql:
            rows = sqlite.insert(self._untyped).values({name: sa.bindparam(name) for name in names})
            return rows, rows.excluded
        inserted = postgresql.insert(self._untyped).from_select(names, self._records(names))
        return inserted, inserted.excluded

    def _records(self, names: Sequence[str]) -> Any:
        """Return the SELECT that expands one JSON parameter to rows of the columns `names`."""
        kinds = {column.name: column.kind for column in self.columns}
        rows = sa.func.json_to_recordset(sa.cast(sa.bindparam("rows", type_=sa.Text), postgresql.JSON))
        new = rows.table_valued(*(sa.column(name, POSTGRESQL[kinds[name]]) for name in names))
        return sa.select(new.render_derived(name="new", with_types=True))

    def _parameters(self, rows: Sequence[Cells]) -> Any:
        if self.postgresql:
            return {"rows": orjson.dumps(rows, default=_fragment).decode()}
        names = [column.name for column in self.columns]
        return [{name: _for_sqlite(row[name]) for name in names} for row in rows]

    def _read(self, column: Column) -> Any:
        """Return the expression that reads a column. Times are read as text: PostgreSQL's range exceeds Python's."""
        cell = self._untyped.c[column.name]
        if self.postgresql and column.kind == "json":
            return sa.cast(cell, sa.Text)
        if self.postgresql and column.kind == "timestamp":
            return sa.func.to_char(sa.func.timezone("UTC", cell), _TIME_FORMAT)
        return cell


def _value(kind: str, cell: Any) -> Any:
    """Convert a value of the table to a cell of `columns.Columns.row`."""
    if cell is None:
        return None
    convert = _FROM_TABLE.get(kind)
    return convert(cell) if convert else cell


def _finite(cell: Any) -> Decimal | None:
    number = Decimal(str(cell))
    return number if number.is_finite() else None


_FROM_TABLE: Final[Mapping[str, Callable[[Any], Any]]] = {
    "timestamp": lambda cell: utc(str(cell)),
    "json": lambda cell: str(cell).encode(),
    "boolean": bool,
    "integer": lambda cell: int(cell) if isinstance(cell, Decimal) else cell,
    "number": _finite,
}


def _fragment(cell: bytes | Decimal) -> orjson.Fragment:
    """Insert JSON and decimals as they are."""
    return orjson.Fragment(cell if isinstance(cell, bytes) else str(cell))


def _for_sqlite(cell: Any) -> Any:
    """Convert JSON, times and decimals, for which SQLite has no types."""
    if isinstance(cell, bytes):
        return cell.decode()
    if isinstance(cell, datetime):
        return cell.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
    if isinstance(cell, Decimal):
        whole = cell == cell.to_integral_value()
        return int(cell) if whole and int(cell) in INT64 else float(cell)
    return cell


def by_key(table: ResultsTable, rows: Iterable[Cells]) -> dict[Key, Cells]:
    """Return the last row of each key, sorted: writers that lock in one order never deadlock."""
    return dict(sorted({table.key_of(row): row for row in rows}.items()))
