"""Write many rows with one statement.

On PostgreSQL the rows of an INSERT or UPDATE are one JSON parameter, with their bytes in another: the text of a
statement does not depend on their number. SQLite runs the statement for each row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from receiver.ledger.database.dialect import among_given
from receiver.ledger.database.errors import LedgerDataError

# Adds an ON CONFLICT clause to an INSERT. Must be a module-level function, because its statement is cached.
Conflict = Callable[[Any], Any]


def insert_statement(connection: sa.Connection, table: sa.Table) -> Any:
    """Return an INSERT with ON CONFLICT, which is the same SQL in both databases but two classes in SQLAlchemy."""
    return _insert(connection.dialect.name, table)


def _insert(dialect: str, table: sa.Table) -> Any:
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)


def put(
    connection: sa.Connection, table: sa.Table, row: Mapping[str, Any], changes: Collection[str] | None = None
) -> None:
    """Insert a row, or update the existing one. `changes`: update only these columns."""
    insert = insert_statement(connection, table).values(**row)
    changed = {name: row[name] for name in (row if changes is None else changes)}
    connection.execute(or_update(insert, changed))


def or_update(insert: Any, changes: Mapping[str, Any], where: sa.ColumnElement[bool] | None = None) -> Any:
    """Update an existing row with the same primary key, if it meets `where`."""
    return insert.on_conflict_do_update(index_elements=list(insert.table.primary_key), set_=changes, where=where)


def do_nothing(insert: Any) -> Any:
    """Keep existing rows unchanged."""
    return insert.on_conflict_do_nothing()


def insert_many(
    connection: sa.Connection,
    table: sa.Table,
    rows: Sequence[dict[str, Any]],
    conflict: Conflict | None = None,
    returning: tuple[sa.Column[Any], ...] = (),
) -> Sequence[Any]:
    """Insert rows with the same columns, in their order: one row per key, sorted by it, or writers deadlock.

    Returns the columns `returning` of each written row, in no particular order. Raises LedgerDataError for a value that
    the database cannot store.
    """
    if not rows:
        return []
    name = connection.dialect.name
    if name != "postgresql":
        return _all(connection.execute(_one_by_one(name, table, conflict, returning), rows), returning)
    statement = _from_json(table, tuple(rows[0]), conflict, returning)
    return _all(connection.execute(statement, _as_parameters(rows)), returning)


def _all(result: sa.CursorResult[Any], returning: Sequence[Any]) -> Sequence[Any]:
    return result.all() if returning else ()


@lru_cache(maxsize=256)
def _one_by_one(dialect: str, table: sa.Table, conflict: Conflict | None, returning: tuple[sa.Column[Any], ...]) -> Any:
    return _completed(_insert(dialect, table), conflict, returning)


@lru_cache(maxsize=256)
def _from_json(
    table: sa.Table,
    names: tuple[str, ...],
    conflict: Conflict | None,
    returning: tuple[sa.Column[Any], ...],
    prefix: str = "b",
) -> Any:
    types = {name: table.c[name].type for name in names}
    are_bytes = {name for name, kind in types.items() if isinstance(kind, sa.LargeBinary)}
    place = postgresql.ARRAY(sa.Integer())
    given = _recordset([(name, place if name in are_bytes else kind) for name, kind in types.items()], prefix)
    all_bytes = sa.bindparam(f"{prefix}_bytes", b"", type_=sa.LargeBinary())

    def value(name: str) -> Any:
        it: Any = given.c[name]
        return sa.func.substring(all_bytes, it[1], it[2]) if name in are_bytes else it

    rows = sa.select(*map(value, names))
    return _completed(postgresql.insert(table).from_select(list(names), rows), conflict, returning)


def _recordset(columns: Iterable[tuple[str, Any]], prefix: str) -> sa.TableValuedAlias:
    """Return a JSON parameter as a table with these columns, given as name and type."""
    document = sa.cast(sa.bindparam(f"{prefix}_rows", type_=sa.Text()), postgresql.JSON())
    given = sa.func.json_to_recordset(document).table_valued(*(sa.column(*each) for each in columns))
    return given.render_derived(name="given", with_types=True)


def _as_parameters(rows: Sequence[dict[str, Any]], prefix: str = "b") -> dict[str, Any]:
    """Return rows as a JSON parameter, in which bytes are represented by start and length in a second parameter.

    In the JSON itself they would be twice as long, and read three times; an array of them is slow to make."""
    found, start = [], 1

    def place(value: Any) -> tuple[int, int]:
        nonlocal start
        found.append(value)
        start += len(value)
        return start - len(value), len(value)

    try:
        text = orjson.dumps(rows, default=place).decode()
    except TypeError as error:  # a lone surrogate, or an integer over 64 bits
        raise LedgerDataError(str(error)) from error
    return {f"{prefix}_rows": text, **({f"{prefix}_bytes": b"".join(found)} if found else {})}


# Builds an UPDATE from a function that returns the value of a name in each row. Must be a module-level function,
# because its statement is cached.
Update = Callable[[Callable[[str], Any]], sa.Update]


_Shape = tuple[Callable[..., Any], tuple[Any, ...]]


class Insert(NamedTuple):
    """Rows to insert by `write`, as by `insert_many`. `key`: the column that is returned of each written row."""

    key: sa.Column[Any]
    rows: Sequence[dict[str, Any]]
    conflict: Conflict | None = None

    def shape(self) -> _Shape:
        """Return a function that makes the statement for PostgreSQL, and its arguments."""
        return _from_json, (self.key.table, tuple(self.rows[0]), self.conflict, (self.key,))

    def parameters(self, prefix: str) -> dict[str, Any]:
        """Return the parameters of that statement."""
        return _as_parameters(self.rows, prefix)

    def run(self, connection: sa.Connection) -> list[Any]:
        """Run it on SQLite. Returns the keys."""
        made = insert_many(connection, self.key.table, self.rows, self.conflict, (self.key,))
        return [row[0] for row in made]


class Change(NamedTuple):
    """Rows to update by `write`: those with each `key` in `rows`, which have the names in `types`.

    `common`: the parameters that are the same for all rows. Returns no keys."""

    key: sa.Column[Any]
    rows: Sequence[dict[str, Any]]
    update: Update
    types: tuple[tuple[str, Any], ...]
    common: Mapping[str, Any]

    def shape(self) -> _Shape:
        """Return a function that makes the statement for PostgreSQL, and its arguments."""
        return _by_rows, (self.key, self.update, self.types)

    def parameters(self, prefix: str) -> dict[str, Any]:
        """Return the parameters of that statement."""
        keys = [row[self.key.name] for row in self.rows]
        return {f"{prefix}_keys": keys, **_as_parameters(self.rows, prefix), **self.common}

    def run(self, connection: sa.Connection) -> list[Any]:
        """Run it on SQLite."""
        each_row = [{**{f"b_{name}": row[name] for name, _ in self.types}, **self.common} for row in self.rows]
        connection.execute(_row_by_row(self.key, self.update, self.types), each_row)
        return []


def _by_rows(key: sa.Column[Any], update: Update, types: tuple[tuple[str, Any], ...], prefix: str) -> Any:
    given = _recordset(types, prefix)
    # Repeat the keys: without statistics, PostgreSQL reads the whole table to join it with the rows.
    return (
        update(given.c.__getitem__).where(key == given.c[key.name], among_given(key, f"{prefix}_keys")).returning(key)
    )


@lru_cache
def _row_by_row(key: sa.Column[Any], update: Update, types: tuple[tuple[str, Any], ...]) -> sa.Update:
    given = {name: sa.bindparam(f"b_{name}", type_=kind) for name, kind in types}
    return update(given.__getitem__).where(key == given[key.name])


def write(connection: sa.Connection, *parts: Insert | Change) -> list[list[Any]]:
    """Write all of this in its order. Returns by part the keys of the written rows.

    On PostgreSQL it is one statement, and so one round trip: no part sees what the others write, and no row may occur
    twice. Raises LedgerDataError for a value that the database cannot store.
    """
    keys: list[list[Any]] = [[] for _ in parts]
    there = [(number, part) for number, part in enumerate(parts) if part.rows]
    if connection.dialect.name != "postgresql":
        for number, part in there:
            keys[number] = part.run(connection)
    elif there:
        statement = _joined(tuple((number, part.shape()) for number, part in there))
        given = {name: value for number, part in there for name, value in part.parameters(f"b{number}").items()}
        for number, key in connection.execute(statement, given):
            keys[number].append(key)
    return keys


@lru_cache(maxsize=256)
def _joined(shapes: tuple[tuple[int, _Shape], ...]) -> Any:
    """Return one statement for these parts. Its SELECT reads their results one after the other, so that they run in
    this order: https://www.postgresql.org/docs/current/queries-with.html#QUERIES-WITH-MODIFYING"""
    parts = [(number, make(*given, f"b{number}").cte(f"part{number}")) for number, (make, given) in shapes]
    return sa.union_all(*(sa.select(sa.literal_column(str(number), sa.Integer()), part.c[0]) for number, part in parts))


def _completed(statement: Any, conflict: Conflict | None, returning: Sequence[sa.Column[Any]]) -> Any:
    statement = conflict(statement) if conflict else statement
    return statement.returning(*returning) if returning else statement.inline()
