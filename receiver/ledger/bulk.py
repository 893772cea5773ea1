"""Many rows in one statement whose text does not grow with them.

On PostgreSQL the rows go as one array a column (`unnest`): taking a VALUES list of 256 rows apart cost the driver more
than all the rest of a dispatch. SQLite has no arrays, and takes a VALUES list.
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


def insert(
    connection: sa.Connection,
    table: sa.Table,
    rows: Sequence[dict[str, Any]],
    conflict: Callable[[Any], Any],
    returning: Sequence[sa.Column[Any]],
) -> Sequence[sa.Row[Any]]:
    """Insert `rows`, which all have the same keys. `conflict` adds the ON CONFLICT clause to the statement.

    Returns what `returning` names of each row that was written, in no particular order; without names, nothing.
    """
    if not rows:
        return []
    statement = insert_statement(connection, table)
    names = list(rows[0])
    if connection.dialect.name != "postgresql":
        return _rows(connection, conflict(statement), returning, list(rows))
    arrays = [sa.bindparam(name, type_=postgresql.ARRAY(table.c[name].type)) for name in names]
    source = sa.func.unnest(*arrays).table_valued(*names).render_derived()
    statement = statement.from_select(names, sa.select(*(source.c[name] for name in names)))
    values = {name: [row[name] for row in rows] for name in names}
    return _rows(connection, conflict(statement), returning, values)


def _rows(
    connection: sa.Connection, statement: Any, returning: Sequence[sa.Column[Any]], values: Any
) -> Sequence[sa.Row[Any]]:
    if returning:
        return connection.execute(statement.returning(*returning), values).all()
    connection.execute(statement, values)
    return []


def among(connection: sa.Connection, column: sa.Column[Any], values: Collection[Any]) -> sa.ColumnElement[bool]:
    """Return the condition that `column` is one of `values`."""
    if connection.dialect.name != "postgresql":
        return column.in_(values)
    array: Any = sa.bindparam(None, list(values), type_=postgresql.ARRAY(column.type), unique=True)
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
