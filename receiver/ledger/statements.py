"""Statements that are built once a process, and several of them run in one request to the database.

SQLAlchemy compiles the text of each once, and is left out when it runs, which then costs a quarter. PostgreSQL prepares
it once a session, and takes values in binary. SQLite has no requests: there they run one after the other.
"""

from __future__ import annotations

import json
import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from functools import cached_property, partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from handlers.support import postgresql_binary

if TYPE_CHECKING:
    from handlers.support import postgresql


class RowsByColumn(NamedTuple):
    """Many rows, as the values of each column, by name."""

    columns: Mapping[str, Sequence[Any]]


class BoundStatement(NamedTuple):
    """A statement with its values, by name. On SQLite they may be those of many rows, for each of which it is run: a
    sequence, or RowsByColumn."""

    statement: BuiltStatement
    values: Any


class StatementForm(IntEnum):
    """What a statement is built for: SQLite; or PostgreSQL, with an array for each list of values (MANY), or with plain
    parameters where no list has more than one value (ONE).

    Why ONE: most batches are of one event. For a condition on an array PostgreSQL plans the statement anew each time,
    since a plan for one value looks cheaper than one for any number, and `unnest` sets up a store of rows for each
    column: together that cost it more than to write the row.
    """

    SQLITE = 0
    MANY = 1
    ONE = 2


class BuiltStatement:
    """A statement. `build`: makes it for a form, with a typed bindparam for each value, none of them expanding."""

    def __init__(self, build: Callable[[StatementForm], Any]) -> None:
        self._build = build

    def with_values(self, **values: Any) -> BoundStatement:
        """Bind the values of its bindparams."""
        return BoundStatement(self, values)

    def for_each(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> list[BoundStatement]:
        """Bind the values of each of `rows`, by name."""
        if connection.dialect.name == "postgresql":
            return [BoundStatement(self, row) for row in rows]
        return [BoundStatement(self, rows)] if rows else []

    @cached_property
    def on_sqlite(self) -> _OnSqlite:
        """As SQLite gets it."""
        return _OnSqlite(self._build(StatementForm.SQLITE))

    def on_postgresql(self, values: Mapping[str, Any]) -> _OnPostgresql:
        """As PostgreSQL gets it for these values."""
        few = all(len(value) < 2 for value in values.values() if type(value) is list)
        return self._for_one if few else self._for_many

    @cached_property
    def _for_one(self) -> _OnPostgresql:
        return _OnPostgresql(self._build(StatementForm.ONE))

    @cached_property
    def _for_many(self) -> _OnPostgresql:
        return _OnPostgresql(self._build(StatementForm.MANY))


class _OnSqlite:
    """A statement in SQLite's own terms."""

    def __init__(self, statement: Any) -> None:
        from sqlalchemy.dialects.sqlite import pysqlite

        dialect: Any = pysqlite.dialect(paramstyle="qmark")
        compiled = statement.compile(dialect=dialect)
        self.text: str = compiled.string
        self._names: Sequence[str] = compiled.positiontup or ()
        self._constants = {name: of.value for name, of in compiled.binds.items() if not of.required}
        self._lists = [name for name, of in compiled.binds.items() if isinstance(of.type, sa.JSON)]
        self._flags = {name for name, of in compiled.binds.items() if isinstance(of.type, sa.Boolean)}
        columns = statement.exported_columns
        self._row: Any = namedtuple("row", list(columns.keys()))  # type: ignore[misc]  # noqa: PYI024
        self._booleans = [place for place, of in enumerate(columns) if isinstance(of.type, sa.Boolean)]

    def parameters(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return these values as the driver takes them: by place, since by name it takes three times as long."""
        given = {**self._constants, **values}
        for name in self._lists:
            given[name] = _to_json(given[name])
        return tuple([given[name] for name in self._names])

    def rows(self, columns: Mapping[str, Sequence[Any]]) -> Iterable[Sequence[Any]]:
        """Return the parameters of many rows, which are given as the values of each column."""
        count = len(next(iter(columns.values())))
        given: dict[str, Iterable[Any]] = {name: repeat(value, count) for name, value in self._constants.items()}
        given |= columns
        # As numbers: the driver looks for an adapter for each boolean.
        return zip(*[map(_flag, given[it]) if it in self._flags else given[it] for it in self._names], strict=True)

    def run(self, driver: sqlite3.Connection, values: Any) -> Sequence[Any]:
        """Run it, for each of many rows if that is what `values` are. Returns its rows.

        Raises sqlite3.Error, and UnicodeEncodeError for a value that SQLite has not.
        """
        try:
            return self._run(driver, values)
        except OverflowError as error:  # as the driver says it; to us it would be an error in arithmetic
            raise sqlite3.DataError(str(error)) from error

    def _run(self, driver: sqlite3.Connection, values: Any) -> Sequence[Any]:
        if isinstance(values, Mapping):
            return self._read(driver.execute(self.text, self.parameters(values)).fetchall())
        rows = self.rows(values.columns) if isinstance(values, RowsByColumn) else map(self.parameters, values)
        cursor = driver.cursor()
        if not self._row._fields:
            cursor.executemany(self.text, rows)
            return []
        execute, text = cursor.execute, self.text
        return self._read([row for each in rows for row in execute(text, each)])

    def _read(self, rows: list[Any]) -> Sequence[Any]:
        for place in self._booleans:
            rows = [(*row[:place], _boolean(row[place]), *row[place + 1 :]) for row in rows]
        return [self._row._make(row) for row in rows]


# For SQLite's json_each. A lone surrogate stays as it is, for the driver to refuse.
_to_json: Final = json.JSONEncoder(ensure_ascii=False).encode


def _flag(value: bool | None) -> int | None:
    return None if value is None else int(value)


def _boolean(value: int | None) -> bool | None:
    return None if value is None else bool(value)


class _OnPostgresql:
    """A statement in PostgreSQL's own terms."""

    def __init__(self, statement: Any) -> None:
        from sqlalchemy.dialects.postgresql import psycopg

        from handlers.support.postgresql import Statement

        dialect: Any = psycopg.dialect
        compiled = statement.compile(dialect=dialect(paramstyle="numeric_dollar"))
        self._statement = Statement(compiled.string)
        self._constants = compiled.construct_params(_check=False)
        types = [(name, compiled.binds[name].type) for name in compiled.positiontup or ()]
        self._writers = [(name, _writer(of), isinstance(of, ARRAY)) for name, of in types]
        row: Any = namedtuple("row", list(statement.exported_columns.keys()))  # type: ignore[misc]  # noqa: PYI024
        self.row = row._make

    def execution(self, values: Mapping[str, Any]) -> postgresql.Execution:
        """Return what the driver runs. Raises UnicodeEncodeError or struct.error for a value that its type has not."""
        from handlers.support.postgresql import Execution

        given = {**self._constants, **values}
        written = []
        for name, write, takes_list in self._writers:
            value = given[name]
            if type(value) is list and not takes_list:
                value = value[0] if value else None
            written.append(None if value is None else write(value))
        return Execution(self._statement, written)


def run(connection: sa.Connection, *bound: BoundStatement | None, commit: bool = False) -> list[Sequence[Any]]:
    """Run statements in order, on PostgreSQL in one request. Returns the rows of each; none for None.

    `commit`: commit the transaction with the last one, where that saves a request; run nothing after it then. Raises as
    connection.execute.
    """
    wanted = [each for each in bound if each is not None]
    rows = iter(_run(connection, wanted, commit) if wanted else ())
    return [[] if each is None else next(rows) for each in bound]


def _run(connection: sa.Connection, bound: Sequence[BoundStatement], commit: bool) -> list[Sequence[Any]]:
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name != "postgresql":
        if not driver.in_transaction:
            connection.begin()
        try:
            return [each.statement.on_sqlite.run(driver, each.values) for each in bound]
        except sqlite3.Error as error:
            connection._handle_dbapi_exception(error, None, None, None, None)
    import psycopg

    compiled = [each.statement.on_postgresql(each.values) for each in bound]
    executions = [it.execution(each.values) for it, each in zip(compiled, bound, strict=True)]
    try:
        found = driver.together(executions, commit=commit)
    except psycopg.Error as error:
        connection._handle_dbapi_exception(error, None, None, None, None)
    return [[it.row(row) for row in rows] for it, rows in zip(compiled, found, strict=True)]


# A type stands before the type that it derives from.
_TYPES: Final = (
    (sa.Text, postgresql_binary.TEXT),
    (sa.LargeBinary, postgresql_binary.BYTEA),
    (sa.Boolean, postgresql_binary.BOOL),
    (sa.BigInteger, postgresql_binary.INT8),
    (sa.Integer, postgresql_binary.INT4),
    (sa.Double, postgresql_binary.FLOAT8),
)


def _writer(of: Any) -> Callable[[Any], bytes]:
    """Return the function that writes values of one of SQLAlchemy's types in PostgreSQL's binary format."""
    if isinstance(of, ARRAY):
        return partial(postgresql_binary.array, _type(of.item_type))
    return _type(of).write


def _type(of: Any) -> postgresql_binary.Type:
    return next(written for kind, written in _TYPES if isinstance(of, kind))
