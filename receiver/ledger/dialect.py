"""The differences between SQLite and PostgreSQL in the ledger's SQL: many rows in one statement, lists of values,
texts, and hints to query planners.

On PostgreSQL the rows of an INSERT or UPDATE are one JSON parameter, and a list of values is one array: the text of a
statement does not depend on their number. SQLite runs the statement for each row, and takes a list of values as JSON.
"""

from __future__ import annotations

import hashlib
import json
import string
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

from receiver.domain.run import RunKey
from receiver.ledger.errors import LedgerDataError

# Adds an ON CONFLICT clause to an INSERT. A function of a module: the statement that it makes is kept.
Conflict = Callable[[Any], Any]

_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

# PostgreSQL's time, in seconds since the epoch.
ASK: Final = "extract(epoch FROM clock_timestamp())::float8"

# Bytes of a value that PostgreSQL gets as a parameter of its own, and not in the JSON with the other rows.
LARGE: Final = 64 << 10


def json_text(value: Any) -> str:
    """Return JSON whose text any client can read: without lone surrogates, which Python's own would escape."""
    return json.dumps(value, ensure_ascii=False).encode(errors="replace").decode()


def is_read_only(connection: sa.Connection) -> bool:
    """Whether PostgreSQL refuses writes: it is a standby, or its settings say so. SQLite says so with a write."""
    if connection.dialect.name != "postgresql":
        return False
    return bool(connection.exec_driver_sql("SELECT current_setting('transaction_read_only') = 'on'").scalar())


_WRITERS: Final = sa.text(
    "SELECT virtualtransaction FROM pg_locks WHERE relation = CAST(:name AS regclass) AND mode = 'RowExclusiveLock'"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def writers(connection: sa.Connection, table: sa.Table) -> frozenset[str] | None:
    """Return the open transactions that have written rows of `table`, or are about to; each may commit rows later.

    None on SQLite: it has one at a time, and no other transaction sees the numbers that it uses.
    """
    if connection.dialect.name != "postgresql":
        return None
    return frozenset(connection.scalars(_WRITERS, {"name": table.name}))


def now(connection: sa.Connection) -> sa.ColumnElement[float]:
    """Return the expression for the database's time, in seconds since the epoch. SQLite's is the host's."""
    if connection.dialect.name == "postgresql":
        return sa.literal_column(ASK, sa.Double())
    return sa.literal(time.time(), sa.Double())


def serialize(connection: sa.Connection, what: str, *, patiently: bool = False) -> None:
    """Let no other transaction do `what` until this one ends. SQLite has one writer anyway.

    `patiently`: wait however long another one takes; one whose host has vanished holds nothing for long.
    """
    if connection.dialect.name != "postgresql":
        return
    if patiently:
        limit = connection.execute(sa.select(sa.func.current_setting("lock_timeout"))).scalar_one()
        connection.execute(sa.select(sa.func.set_config("lock_timeout", "0", True)))
    number = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "big", signed=True)
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))
    if patiently:
        connection.execute(sa.select(sa.func.set_config("lock_timeout", limit, True)))


def insert_statement(connection: sa.Connection, table: sa.Table) -> Any:
    """Return an INSERT with ON CONFLICT, which both databases spell alike but SQLAlchemy keeps apart."""
    return _insert(connection.dialect.name, table)


def _insert(dialect: str, table: sa.Table) -> Any:
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)


def put(
    connection: sa.Connection, table: sa.Table, row: Mapping[str, Any], changes: Collection[str] | None = None
) -> None:
    """Insert a row, or update the one with its primary key. `changes`: only these columns of that one."""
    insert = insert_statement(connection, table).values(**row)
    changed = {name: row[name] for name in (row if changes is None else changes)}
    connection.execute(or_update(insert, changed))


def or_update(insert: Any, changes: Mapping[str, Any], where: sa.ColumnElement[bool] | None = None) -> Any:
    """Change the row that has the primary key already, if it meets `where`."""
    return insert.on_conflict_do_update(index_elements=list(insert.table.primary_key), set_=changes, where=where)


def do_nothing(insert: Any) -> Any:
    """Leave rows as they are whose key is there already."""
    return insert.on_conflict_do_nothing()


def insert_many(
    connection: sa.Connection,
    table: sa.Table,
    rows: Sequence[dict[str, Any]],
    conflict: Conflict | None = None,
    returning: tuple[sa.Column[Any], ...] = (),
) -> Sequence[Any]:
    """Insert rows, which all have the same keys, in their order: one row per key, sorted by it, or writers deadlock.

    Returns `returning` of each row that was written, in no particular order; without names, nothing. Raises
    LedgerDataError for a value that the database cannot store.
    """
    if not rows:
        return []
    name = connection.dialect.name
    if name != "postgresql":
        return _all(connection.execute(_one_by_one(name, table, conflict, returning), rows), returning)
    large = [row for row in rows if _is_large(row)]
    small = [row for row in rows if not _is_large(row)] if large else rows
    found: list[Any] = []
    if small:
        statement = _from_json(table, tuple(small[0]), conflict, returning)
        found += _all(connection.execute(statement, {"b_rows": _rows_as_json(small)}), returning)
    for row in large:
        found += _all(connection.execute(_one_by_one(name, table, conflict, returning), row), returning)
    return found


def _is_large(row: dict[str, Any]) -> bool:
    return any(isinstance(value, bytes) and len(value) > LARGE for value in row.values())


def _all(result: sa.CursorResult[Any], returning: Sequence[Any]) -> Sequence[Any]:
    return result.all() if returning else ()


@lru_cache(maxsize=256)
def _one_by_one(dialect: str, table: sa.Table, conflict: Conflict | None, returning: tuple[sa.Column[Any], ...]) -> Any:
    return _completed(_insert(dialect, table), conflict, returning)


@lru_cache(maxsize=256)
def _from_json(
    table: sa.Table, names: tuple[str, ...], conflict: Conflict | None, returning: tuple[sa.Column[Any], ...]
) -> Any:
    given = _recordset([(name, table.c[name].type) for name in names])
    rows = sa.select(*(given.c[name] for name in names))
    return _completed(postgresql.insert(table).from_select(list(names), rows), conflict, returning)


def _recordset(columns: Iterable[tuple[str, Any]]) -> sa.TableValuedAlias:
    """Return the rows of the JSON parameter b_rows as a table with these columns, each a name and a type."""
    document = sa.cast(sa.bindparam("b_rows", type_=sa.Text()), postgresql.JSON())
    given = sa.func.json_to_recordset(document).table_valued(*(sa.column(*each) for each in columns))
    return given.render_derived(name="given", with_types=True)


# Makes an UPDATE, given what returns the value of a name in each row. A function of a module: what it makes is kept.
Update = Callable[[Callable[[str], Any]], sa.Update]


def update_many(
    connection: sa.Connection,
    key: sa.Column[Any],
    update: Update,
    types: tuple[tuple[str, Any], ...],
    rows: Sequence[dict[str, Any]],
    common: dict[str, Any],
) -> None:
    """Run an UPDATE of the row with each `key` in `rows`, which have the names in `types`. `common`: its parameters
    that are the same for all."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        given = {"b_rows": _rows_as_json(rows), "b_keys": [row[key.name] for row in rows]}
        connection.execute(_by_rows(key, update, types), given | common)
    else:
        each_row = [{**{f"b_{name}": row[name] for name, _ in types}, **common} for row in rows]
        connection.execute(_row_by_row(key, update, types), each_row)


@lru_cache
def _by_rows(key: sa.Column[Any], update: Update, types: tuple[tuple[str, Any], ...]) -> sa.Update:
    given = _recordset(types)
    # The keys again: without statistics PostgreSQL would rather read the whole table, to join it with the rows.
    return update(lambda name: given.c[name]).where(key == given.c[key.name], among_given(key, "b_keys"))


@lru_cache
def _row_by_row(key: sa.Column[Any], update: Update, types: tuple[tuple[str, Any], ...]) -> sa.Update:
    given = {name: sa.bindparam(f"b_{name}", type_=kind) for name, kind in types}
    return update(given.__getitem__).where(key == given[key.name])


def _completed(statement: Any, conflict: Conflict | None, returning: Sequence[sa.Column[Any]]) -> Any:
    statement = conflict(statement) if conflict else statement
    return statement.returning(*returning) if returning else statement.inline()


def _rows_as_json(rows: Sequence[dict[str, Any]]) -> str:
    try:
        return orjson.dumps(rows, default=_hex).decode()
    except TypeError as error:  # a lone surrogate, or an integer over 64 bits
        raise LedgerDataError(str(error)) from error


def _hex(value: Any) -> str:
    """Return bytes as PostgreSQL reads them from text."""
    assert isinstance(value, bytes)
    return "\\x" + value.hex()


class _List(sa.TypeDecorator[Any]):
    """A list of values of one type, as one parameter."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, item: Any) -> None:
        super().__init__()
        self.item = item

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        array: Any = postgresql.ARRAY(self.item)
        return dialect.type_descriptor(array if dialect.name == "postgresql" else sa.Text())

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        if dialect.name == "postgresql":
            return list(value)
        # A lone surrogate stays as it is, for the driver to refuse.
        return json.dumps(list(value), ensure_ascii=False)


class _Spelt(FunctionElement[Any]):
    """What each database spells in its own way: see _FORMS."""

    inherit_cache = True


class _Among(_Spelt):
    """Whether a value is in a list. Of no type: a boolean is written with " = 1" behind it, which hides it from
    SQLite's planner."""

    inherit_cache = True
    name = "among"


class _Texts(_Spelt):
    """The texts of a JSON list, as a table with the column `value`."""

    inherit_cache = True
    name = "texts"


class _ByIndex(_Spelt):
    """A table that is read by an index. PostgreSQL finds it itself."""

    inherit_cache = True
    name = "by_index"


class _Position(_Spelt):
    """Where a text is in another, from 1; 0: nowhere."""

    inherit_cache = True
    name = "position"
    type = sa.Integer()


class _Whole(_Spelt):
    """The number without its fraction; of one that is not negative."""

    inherit_cache = True
    name = "whole"
    type = sa.BigInteger()


_FORMS: Final = {
    "sqlite": {
        "among": "({} IN (SELECT value FROM json_each({})))",
        "texts": "json_each({})",
        "by_index": "{} INDEXED BY {}",
        "position": "instr({}, {})",
        "whole": "CAST({} AS INTEGER)",
    },
    "postgresql": {
        "among": "({} = ANY ({}))",
        "texts": "json_array_elements_text(CAST({} AS JSON))",
        "by_index": "{}",
        "position": "strpos({}, {})",
        "whole": "CAST(floor({}) AS BIGINT)",
    },
}


@compiles(_Among)
@compiles(_Texts)
@compiles(_ByIndex)
@compiles(_Position)
@compiles(_Whole)
def _spelt(element: Any, compiler: Any, **options: Any) -> str:
    parts = (compiler.process(each, **options) for each in element.clauses)
    return _FORMS[compiler.dialect.name][element.name].format(*parts)


def among(column: sa.ColumnElement[Any], values: Collection[Any]) -> sa.ColumnElement[bool]:
    """Return the condition that `column` is one of `values`."""
    return _Among(column, sa.bindparam(None, list(values), type_=_List(column.type), unique=True))


def among_given(column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[bool]:
    """Return the condition that `column` is one of the values of the parameter `name`."""
    return _Among(column, sa.bindparam(name, type_=_List(column.type)))


def given_texts(name: str) -> sa.ColumnElement[str]:
    """Return the column of the texts in the parameter `name`, a JSON list: a query of it has a row for each."""
    table = _Texts(sa.bindparam(name, type_=sa.Text())).table_valued(sa.column("value", sa.Text()), name="given")
    return table.c.value


def by_index(table: sa.Table, index: str) -> sa.FromClause:
    """Return the table for a FROM, to be read by this index. SQLite would rather take another one."""
    return _ByIndex(sa.literal_column(table.name), sa.literal_column(index))


def of_runs(table: sa.Table, keys: Iterable[RunKey]) -> sa.ColumnElement[bool]:
    """Return the condition that a row of `table` is of one of these runs: an index that begins with the run's id finds
    it, and the source is compared with the rows that it finds."""
    wanted = sorted(set(keys))
    pairs = among(table.c.source + sa.literal_column("' '") + table.c.run_id, [" ".join(key) for key in wanted])
    return sa.and_(among(table.c.run_id, sorted({run_id for _, run_id in wanted})), pairs)


def each_value(column: sa.ColumnElement[Any], *conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Select the texts in a column of the rows that meet the conditions, but "", by a jump in an index from each to the
    next: it begins with the column, or has the conditions for its own."""

    def following(last: Any) -> sa.ScalarSelect[Any]:
        further = sa.select(column).where(*conditions, column > last)
        return further.order_by(column).limit(1).scalar_subquery()

    walk = sa.select(following("").label("value")).cte(recursive=True)
    walk = walk.union_all(sa.select(following(walk.c.value)).where(walk.c.value.is_not(None)))
    return sa.select(walk.c.value).where(walk.c.value.is_not(None))


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


def lease_due(
    connection: sa.Connection, table: sa.Table, source: str, now: float, seconds: float, limit: int
) -> Sequence[Any]:
    """Move `due_at` of up to `limit` rows of `source` that are due by `seconds`, so that no other process takes them.
    Returns the rows as they were, the one that waits longest first."""
    due = sa.select(table).where(table.c.due_at <= now, table.c.source == source).order_by(table.c.due_at).limit(limit)
    rows = connection.execute(due.with_for_update(skip_locked=True)).all()
    name = "id" if "id" in table.c else "run_id"
    if rows:
        taken = among(table.c[name], [getattr(row, name) for row in rows])
        leased = sa.update(table).where(taken, table.c.source == source)
        connection.execute(leased.values(due_at=now + seconds))
    return rows


def storable(text: str) -> str:
    """Return text of others as every database takes it: without NUL and lone surrogates, cut to 500 characters."""
    return text.replace("\0", "").encode(errors="replace").decode()[:500]


def unindexed(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Return the column as a value for which no index is used: the statement has a better one."""
    return column.concat("") if isinstance(column.type, sa.Text) else column + 0


def row_by_row(*conditions: sa.ColumnElement[bool]) -> list[sa.ColumnElement[bool]]:
    """Return the conditions as one that each row is checked with: no index and no join is chosen for it."""
    return [sa.and_(*conditions).is_(sa.true())] if conditions else []


def use_indexes(connection: sa.Connection) -> None:
    """Let PostgreSQL, until the transaction ends, read by indexes in their order: never a whole table, and no bitmaps,
    which gather all before the first row is returned."""
    if connection.dialect.name == "postgresql":
        names = ("enable_seqscan", "enable_bitmapscan")
        connection.execute(sa.select(*(sa.func.set_config(name, "off", True) for name in names)))


def learn(connection: sa.Connection) -> None:
    """Let SQLite look at a part of the tables that have grown much, or it takes an index for another. PostgreSQL does
    so by itself."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA analysis_limit = 1000")
        connection.exec_driver_sql("PRAGMA optimize(0x10002)")


def contains(column: sa.ColumnElement[Any], part: str) -> sa.ColumnElement[bool]:
    """Return the condition that `part` is somewhere in the column, with the letters A-Z in either case."""
    return contains_exactly(sa.func.lower(column), part.translate(_LOWER))


def contains_exactly(column: sa.ColumnElement[Any], part: str) -> sa.ColumnElement[bool]:
    """Return the condition that `part` is somewhere in the column."""
    return _Position(column, sa.literal(part, sa.Text())) > 0


def bucket_of(moment: sa.ColumnElement[Any], seconds: float) -> sa.ColumnElement[int]:
    """Return the number of the bucket, of `seconds`, that a time since the epoch is in."""
    return _Whole(moment / sa.literal(float(seconds), sa.Double()))
