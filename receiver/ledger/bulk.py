"""Many rows in one statement whose text does not grow with them.

On PostgreSQL each column of the rows is an array (`unnest`), since a VALUES list of 256 rows costs the driver more to
take apart than all the rest of a dispatch. An array costs the server some 0.2 µs a row, so a column that is *uniform*,
which has the same value in all rows, is given as one value. A statement for each set of uniform columns would be a plan
for each: there are a few levels, each with the columns of those before it. On SQLite a statement is run for each row.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import accumulate, groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY

from receiver.domain.run import RunKey
from receiver.ledger import statements
from receiver.ledger.expressions import unseen
from receiver.ledger.statements import BoundStatement, BuiltStatement, RowsByColumn, StatementForm


def insert_statement(connection: sa.Connection, table: sa.Table) -> Any:
    """INSERT with ON CONFLICT, which both databases spell alike but SQLAlchemy keeps apart."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)


class Insert:
    """An INSERT of many rows into `table`. Its statement is built once: that costs more than to run it for one row.

    `conflict`: adds the ON CONFLICT clause to the statement. `returning`: see `__call__`. `uniform_levels`: by level,
    the columns that are often uniform.
    """

    def __init__(
        self,
        table: sa.Table,
        conflict: Callable[[Any], Any],
        returning: Sequence[sa.Column[Any]] = (),
        uniform_levels: Sequence[Collection[str]] = ((),),
    ) -> None:
        self._table = table
        self._conflict = conflict
        self._returning = returning
        self._levels = uniform_levels
        self._uniform = uniform_by_level(uniform_levels)
        self._built: dict[tuple[tuple[str, ...], int], BuiltStatement] = {}

    def __call__(self, connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> Sequence[Any]:
        """Insert `rows`, which all have the same keys.

        Returns what `returning` names of each row that was written, in no particular order; without names, nothing.
        """
        return statements.run(connection, self.of(connection, rows))[0] if rows else []

    def of(self, connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> BoundStatement:
        """Return the INSERT of `rows`, of which there is one at least, to be run with others."""
        return self.of_columns(connection, {name: [row[name] for row in rows] for name in rows[0]})

    def of_columns(self, connection: sa.Connection, columns: Mapping[str, Sequence[Any]]) -> BoundStatement:
        """Return the same for rows that are given as the values of each column."""
        names = tuple(columns)
        if connection.dialect.name != "postgresql":
            return BoundStatement(self._statement(names, 0), RowsByColumn(columns))
        level = level_of(columns, self._levels) if len(columns[names[0]]) > 1 else 0
        return BoundStatement(self._statement(names, level), with_uniform(columns, self._uniform[level]))

    def _statement(self, names: tuple[str, ...], level: int) -> BuiltStatement:
        found = self._built.get((names, level))
        if found is None:
            uniform = self._uniform[level]
            found = self._built[names, level] = BuiltStatement(lambda form: self._build(form, names, uniform))
        return found

    def _build(self, form: StatementForm, names: Sequence[str], uniform: Collection[str]) -> Any:
        statement: Any = (postgresql if form else sqlite).insert(self._table)
        if form is not StatementForm.MANY:
            statement = statement.values({name: sa.bindparam(name, type_=self._table.c[name].type) for name in names})
        else:
            given = given_columns({name: self._table.c[name] for name in names}, uniform)
            statement = statement.from_select(list(names), sa.select(*given.values()))
        statement = self._conflict(statement)
        return statement.returning(*self._returning) if self._returning else statement


def given_rows(**columns: sa.Column[Any]) -> Any:
    """Return the rows that are given to PostgreSQL as an array for each of these names, of that column's type."""
    arrays = [sa.bindparam(name, type_=ARRAY(column.type)) for name, column in columns.items()]
    return sa.func.unnest(*arrays).table_valued(*columns).render_derived()


def given_columns(columns: Mapping[str, sa.Column[Any]], uniform: Collection[str]) -> dict[str, sa.ColumnElement[Any]]:
    """Return the columns of rows that are given to PostgreSQL, by the names of their parameters: an array for each of
    these names, but one value for each that is `uniform`.
    """
    arrays = given_rows(**{name: column for name, column in columns.items() if name not in uniform}).c
    return {name: given_value(column, name) if name in uniform else arrays[name] for name, column in columns.items()}


def given_value(column: sa.Column[Any], name: str) -> sa.ColumnElement[Any]:
    """Return a parameter for a value of `column`, with its type: in a SELECT the server would take it for text."""
    return sa.cast(sa.bindparam(name, type_=column.type), column.type)


def uniform_by_level(uniform_levels: Sequence[Collection[str]]) -> list[frozenset[str]]:
    """Return, by level, all columns that are uniform then."""
    return list(accumulate(map(frozenset, uniform_levels), operator.or_))


def level_of(values: Mapping[str, Sequence[Any]], uniform_levels: Sequence[Collection[str]]) -> int:
    """Return the last level whose columns are all uniform in these rows, as are those of the levels before it. Level 0
    has none. `values`: by column."""
    for level, names in enumerate(uniform_levels):
        if not all(_are_equal(values[name]) for name in names if name in values):
            return level - 1
    return len(uniform_levels) - 1


def _are_equal(values: Sequence[Any]) -> bool:
    return not values or values.count(values[0]) == len(values)


def with_uniform(values: Mapping[str, Sequence[Any]], uniform: Collection[str]) -> dict[str, Any]:
    """Return the values of the parameters that `given_columns` makes. Null where there are no rows."""
    return {name: (of or [None])[0] if name in uniform else of for name, of in values.items()}


def among(connection: sa.Connection, column: sa.ColumnElement[Any], values: Collection[Any]) -> sa.ColumnElement[bool]:
    """Return the condition that `column` is one of `values`."""
    if connection.dialect.name != "postgresql":
        return column.in_(values)
    array: Any = sa.bindparam(None, list(values), type_=ARRAY(column.type), unique=True)
    return column == sa.any_(array)


def among_given(form: StatementForm, column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[bool]:
    """Return the condition that `column` is one of the values that are given as parameter `name`: for a statement that
    is built once. Where none is given it is false, or null."""
    if form is StatementForm.SQLITE:
        given = sa.func.json_each(sa.bindparam(name, type_=sa.JSON())).table_valued("value")
        return column.in_(sa.select(given.c.value))
    if form is StatementForm.ONE:
        return column == sa.bindparam(name, type_=column.type)
    return column == sa.any_(sa.bindparam(name, type_=ARRAY(column.type)))


def of_runs(
    connection: sa.Connection, table: sa.Table, source: str, run_ids: Collection[str]
) -> sa.ColumnElement[bool]:
    """Return the condition that a row of `table` is of one of these runs, found by an index that begins with both."""
    return sa.and_(of_source(table, source), among(connection, table.c.run_id, run_ids))


def of_source(table: sa.Table, source: str) -> sa.ColumnElement[bool]:
    """Return the condition that a row of `table` is of `source`, beside others that an index serves which begins with
    the source."""
    return table.c.source == unseen(sa.literal(source, sa.Text))


def of_given_runs(form: StatementForm, table: sa.Table) -> sa.ColumnElement[bool]:
    """Return the condition that a row of `table` is of one of the runs that are given as the parameters `b_source` and
    `b_run_ids`: for a statement that is built once."""
    given = sa.bindparam("b_source", type_=sa.Text)
    its = table.c.source == (unseen(given) if form is StatementForm.MANY else given)
    return sa.and_(its, among_given(form, table.c.run_id, "b_run_ids"))


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
    return [
        (source, [run_id for _, run_id in group])
        for source, group in groupby(sorted(set(keys)), operator.itemgetter(0))
    ]
