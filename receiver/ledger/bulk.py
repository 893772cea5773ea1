"""Many rows in one statement whose text does not grow with them.

On PostgreSQL the rows go as one array a column (`unnest`): taking a VALUES list of 256 rows apart cost the driver more
than all the rest of a dispatch. An array goes as text, which is written here: the driver looks at each value several
times. SQLite has no arrays, and takes a VALUES list.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY

from receiver.domain.run import RunKey


def insert_statement(connection: sa.Connection, table: sa.Table) -> Any:
    """INSERT with ON CONFLICT, which both databases spell alike but SQLAlchemy keeps apart."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)


class Insert:
    """An INSERT of many rows into `table`. Its statement is built once: that costs more than to run it for one row.

    `conflict`: adds the ON CONFLICT clause to the statement. `returning`: see `__call__`.
    """

    def __init__(
        self, table: sa.Table, conflict: Callable[[Any], Any], returning: Sequence[sa.Column[Any]] = ()
    ) -> None:
        self._table = table
        self._conflict = conflict
        self._returning = returning
        self._built: dict[tuple[bool, tuple[str, ...]], Any] = {}

    def __call__(self, connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> Sequence[sa.Row[Any]]:
        """Insert `rows`, which all have the same keys.

        Returns what `returning` names of each row that was written, in no particular order; without names, nothing.
        """
        if not rows:
            return []
        names = tuple(rows[0])
        on_postgresql = connection.dialect.name == "postgresql"
        statement = self._built.get((on_postgresql, names))
        if statement is None:
            statement = self._built[on_postgresql, names] = self._build(connection, names)
        if on_postgresql:
            values = statement.construct_params({name: array_literal([row[name] for row in rows]) for name in names})
            result: Any = connection.exec_driver_sql(statement.string, values)
        else:
            result = connection.execute(statement, list(rows))
        return result.all() if self._returning else []

    def _build(self, connection: sa.Connection, names: Sequence[str]) -> Any:
        statement = insert_statement(connection, self._table)
        if connection.dialect.name == "postgresql":
            columns = [self._table.c[name] for name in names]
            arrays = [sa.cast(sa.bindparam(it.name, type_=sa.Text()), ARRAY(it.type)) for it in columns]
            source = sa.func.unnest(*arrays).table_valued(*names).render_derived()
            statement = statement.from_select(list(names), sa.select(*(source.c[name] for name in names)))
        statement = self._conflict(statement)
        statement = statement.returning(*self._returning) if self._returning else statement
        return statement.compile(dialect=connection.dialect) if connection.dialect.name == "postgresql" else statement


def array_literal(values: Iterable[str | bytes | float | None]) -> str:
    """Return `values` as PostgreSQL reads an array from text. A text that it can't take is refused by the driver."""
    return f"{{{','.join([_element(value) for value in values])}}}"


def _element(value: str | bytes | float | None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, bytes):
        return f'"\\\\x{value.hex()}"'
    return str(value)  # also of a bool: PostgreSQL reads True


def among(connection: sa.Connection, column: sa.Column[Any], values: Collection[Any]) -> sa.ColumnElement[bool]:
    """Return the condition that `column` is one of `values`."""
    if connection.dialect.name != "postgresql":
        return column.in_(values)
    array: Any = sa.bindparam(None, list(values), type_=ARRAY(column.type), unique=True)
    return column == sa.any_(array)


def among_given(on_postgresql: bool, column: sa.Column[Any], name: str) -> sa.ColumnElement[bool]:
    """Return the condition that `column` is one of the values that are given as parameter `name`: for a statement that
    is built once."""
    if not on_postgresql:
        return column.in_(sa.bindparam(name, expanding=True))
    return column == sa.any_(sa.bindparam(name, type_=ARRAY(column.type)))


def count_of_each(
    connection: sa.Connection,
    column: sa.Column[str],
    condition: sa.ColumnElement[bool],
    values: Iterable[str],
    limit: int,
) -> dict[str, int]:
    """Count the rows with each of these values in `column` for which `condition` holds, each only up to `limit`."""
    found = {}
    for value in values:
        rows = sa.select(column).where(condition, column == value).limit(limit).subquery()
        if count := connection.execute(sa.select(sa.func.count()).select_from(rows)).scalar_one():
            found[value] = count
    return found


def by_source(keys: Iterable[RunKey]) -> list[tuple[str, list[str]]]:
    """Group run ids by source, both sorted and without doubles: the order in which locks are taken."""
    return [(source, [run_id for _, run_id in group]) for source, group in groupby(sorted(set(keys)), itemgetter(0))]
