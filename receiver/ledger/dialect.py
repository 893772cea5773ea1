"""Hide the differences between SQLite and PostgreSQL: statements for many rows, lists of values, texts, planner hints.

On PostgreSQL the rows of an INSERT or UPDATE are one JSON parameter, with their bytes in another, and a list of values
is an array: the text of a statement does not depend on their number. SQLite runs the statement for each row, and takes
a list of values as JSON.
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

# Adds an ON CONFLICT clause to an INSERT. Must be a module-level function, because its statement is cached.
Conflict = Callable[[Any], Any]

_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

# PostgreSQL's time, in seconds since the epoch.
ASK: Final = "extract(epoch FROM clock_timestamp())::float8"


def json_text(value: Any) -> str:
    """Return JSON that any client can read: without lone surrogates, which Python's `json` would escape."""
    return json.dumps(value, ensure_ascii=False).encode(errors="replace").decode()


def is_read_only(connection: sa.Connection) -> bool:
    """Whether PostgreSQL refuses writes, as a standby or by its settings. SQLite reports that only when writing."""
    if connection.dialect.name != "postgresql":
        return False
    return bool(connection.exec_driver_sql("SELECT current_setting('transaction_read_only') = 'on'").scalar())


_WRITERS: Final = sa.text(
    "SELECT virtualtransaction FROM pg_locks WHERE relation = CAST(:name AS regclass) AND mode = 'RowExclusiveLock'"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def writers(connection: sa.Connection, table: sa.Table) -> frozenset[str] | None:
    """Return the open transactions that have written rows of `table`, or are about to; each may still commit rows.

    Empty on SQLite: it has one writer at a time, and no other transaction sees that writer's row numbers.
    """
    if connection.dialect.name != "postgresql":
        return None
    return frozenset(connection.scalars(_WRITERS, {"name": table.name}))


def now(connection: sa.Connection) -> sa.ColumnElement[float]:
    """Return the expression for the database's time, in seconds since the epoch. SQLite uses the host's clock."""
    if connection.dialect.name == "postgresql":
        return sa.literal_column(ASK, sa.Double())
    return sa.literal(time.time(), sa.Double())


def serialize(connection: sa.Connection, what: str, *, patiently: bool = False) -> None:
    """Lock `what` against other transactions until this one ends. SQLite has one writer at a time anyway.

    `patiently`: wait for the lock without a limit. A transaction whose host has vanished does not keep locks for long.
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


def continue_numbers(connection: sa.Connection, table: sa.Table) -> None:
    """Number new rows of a table behind the existing ones, whose numbers were inserted. SQLite always does."""
    column = table.autoincrement_column
    if column is None or connection.dialect.name != "postgresql":
        return
    sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
    last = sa.select(sa.func.max(column)).scalar_subquery()
    connection.execute(sa.select(sa.func.setval(sequence, last)).where(last.is_not(None)))


def _all(result: sa.CursorResult[Any], returning: Sequence[Any]) -> Sequence[Any]:
    return result.all() if returning else ()


@lru_cache(maxsize=256)
def _one_by_one(dialect: str, table: sa.Table, conflict: Conflict | None, returning: tuple[sa.Column[Any], ...]) -> Any:
    return _completed(_insert(dialect, table), conflict, returning)


@lru_cache(maxsize=256)
def _from_json(
    table: sa.Table, names: tuple[str, ...], conflict: Conflict | None, returning: tuple[sa.Column[Any], ...]
) -> Any:
    types = {name: table.c[name].type for name in names}
    are_bytes = {name for name, kind in types.items() if isinstance(kind, sa.LargeBinary)}
    place = postgresql.ARRAY(sa.Integer())
    given = _recordset([(name, place if name in are_bytes else kind) for name, kind in types.items()])
    all_bytes = sa.bindparam("b_bytes", b"", type_=sa.LargeBinary())

    def value(name: str) -> Any:
        it: Any = given.c[name]
        return sa.func.substring(all_bytes, it[1], it[2]) if name in are_bytes else it

    rows = sa.select(*map(value, names))
    return _completed(postgresql.insert(table).from_select(list(names), rows), conflict, returning)


def _recordset(columns: Iterable[tuple[str, Any]]) -> sa.TableValuedAlias:
    """Return the JSON parameter b_rows as a table with these columns, given as name and type."""
    document = sa.cast(sa.bindparam("b_rows", type_=sa.Text()), postgresql.JSON())
    given = sa.func.json_to_recordset(document).table_valued(*(sa.column(*each) for each in columns))
    return given.render_derived(name="given", with_types=True)


def _as_parameters(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return rows as the JSON parameter b_rows, in which bytes are represented by start and length in b_bytes.

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
    return {"b_rows": text, "b_bytes": b"".join(found)} if found else {"b_rows": text}


# Builds an UPDATE from a function that returns the value of a name in each row. Must be a module-level function,
# because its statement is cached.
Update = Callable[[Callable[[str], Any]], sa.Update]


def update_many(
    connection: sa.Connection,
    key: sa.Column[Any],
    update: Update,
    types: tuple[tuple[str, Any], ...],
    rows: Sequence[dict[str, Any]],
    common: dict[str, Any],
) -> None:
    """Update the row with each `key` in `rows`, which have the names in `types`.

    `common`: the parameters that are the same for all rows."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        given = {"b_keys": [row[key.name] for row in rows], **_as_parameters(rows), **common}
        connection.execute(_by_rows(key, update, types), given)
    else:
        each_row = [{**{f"b_{name}": row[name] for name, _ in types}, **common} for row in rows]
        connection.execute(_row_by_row(key, update, types), each_row)


@lru_cache
def _by_rows(key: sa.Column[Any], update: Update, types: tuple[tuple[str, Any], ...]) -> sa.Update:
    given = _recordset(types)
    # Repeat the keys: without statistics, PostgreSQL reads the whole table to join it with the rows.
    return update(lambda name: given.c[name]).where(key == given.c[key.name], among_given(key, "b_keys"))


@lru_cache
def _row_by_row(key: sa.Column[Any], update: Update, types: tuple[tuple[str, Any], ...]) -> sa.Update:
    given = {name: sa.bindparam(f"b_{name}", type_=kind) for name, kind in types}
    return update(given.__getitem__).where(key == given[key.name])


def _completed(statement: Any, conflict: Conflict | None, returning: Sequence[sa.Column[Any]]) -> Any:
    statement = conflict(statement) if conflict else statement
    return statement.returning(*returning) if returning else statement.inline()


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
        # A lone surrogate is kept, so that the driver refuses it.
        return json.dumps(list(value), ensure_ascii=False)


class _Spelt(FunctionElement[Any]):
    """An expression that differs between the databases: see _FORMS."""

    inherit_cache = True


class _Among(_Spelt):
    """Whether a value is in a list. Has no type: SQLAlchemy appends " = 1" to a boolean, which hides the index from
    SQLite's planner."""

    inherit_cache = True
    name = "among"


class _Texts(_Spelt):
    """The strings of a JSON list, as a table with the column `value`."""

    inherit_cache = True
    name = "texts"


class _ByIndex(_Spelt):
    """A table that SQLite reads by a given index. PostgreSQL chooses the index automatically."""

    inherit_cache = True
    name = "by_index"


class _Position(_Spelt):
    """The position of a text in another, from 1; 0 if missing."""

    inherit_cache = True
    name = "position"
    type = sa.Integer()


class _Whole(_Spelt):
    """A non-negative number without its fraction."""

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
    """Return a column with one row for each string in the parameter `name`, a JSON list."""
    table = _Texts(sa.bindparam(name, type_=sa.Text())).table_valued(sa.column("value", sa.Text()), name="given")
    return table.c.value


def by_index(table: sa.Table, index: str) -> sa.FromClause:
    """Return the table for a FROM, to be read by this index. SQLite alone would choose another one."""
    return _ByIndex(sa.literal_column(table.name), sa.literal_column(index))


def of_runs(table: sa.Table, keys: Iterable[RunKey]) -> sa.ColumnElement[bool]:
    """Return the condition that a row of `table` belongs to one of these runs.

    An index that begins with the run id finds the rows; their source is compared afterwards."""
    wanted = sorted(set(keys))
    pairs = among(table.c.source + sa.literal_column("' '") + table.c.run_id, [" ".join(key) for key in wanted])
    return sa.and_(among(table.c.run_id, sorted({run_id for _, run_id in wanted})), pairs)


def each_value(column: sa.ColumnElement[Any], *conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Select the distinct non-empty texts in a column of the rows that meet the conditions.

    Jumps from each text to the next in an index that begins with the column, or is partial on the conditions."""

    def following(last: Any) -> sa.ScalarSelect[Any]:
        further = sa.select(column).where(*conditions, column > last)
        return further.order_by(column).limit(1).scalar_subquery()

    walk = sa.select(following("").label("value")).cte(recursive=True)
    walk = walk.union_all(sa.select(following(walk.c.value)).where(walk.c.value.is_not(None)))
    return sa.select(walk.c.value).where(walk.c.value.is_not(None))


def storable(text: str) -> str:
    """Return external text that any database can store: without NUL and lone surrogates, at most 500 characters."""
    return text.replace("\0", "").encode(errors="replace").decode()[:500]


def row_by_row(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Return the conditions as one that is checked for each row found otherwise: it never chooses an index or a join.

    PostgreSQL does not estimate it either. Of 256 claimed deliveries it would expect one, and then compare each of them
    with each result."""
    return sa.func.coalesce(sa.and_(*conditions), sa.false()) if conditions else sa.true()


def use_indexes(connection: sa.Connection) -> None:
    """Make PostgreSQL read by indexes in their order until the transaction ends.

    Disables scans of whole tables, and bitmaps, which collect all rows before the first one is returned."""
    if connection.dialect.name == "postgresql":
        names = ("enable_seqscan", "enable_bitmapscan")
        connection.execute(sa.select(*(sa.func.set_config(name, "off", True) for name in names)))


def learn(connection: sa.Connection) -> None:
    """Update SQLite's statistics of tables that have grown much, so that it chooses the right index.

    PostgreSQL does this automatically."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA analysis_limit = 1000")
        connection.exec_driver_sql("PRAGMA optimize(0x10002)")


def contains(column: sa.ColumnElement[Any], part: str) -> sa.ColumnElement[bool]:
    """Return the condition that the column contains `part`, ignoring the case of the letters A-Z."""
    return contains_exactly(sa.func.lower(column), part.translate(_LOWER))


def contains_exactly(column: sa.ColumnElement[Any], part: str) -> sa.ColumnElement[bool]:
    """Return the condition that the column contains `part`, with the same case."""
    return _Position(column, sa.literal(part, sa.Text())) > 0


def bucket_of(moment: sa.ColumnElement[Any], seconds: float) -> sa.ColumnElement[int]:
    """Return the number of the bucket, `seconds` long, of a time since the epoch."""
    return _Whole(moment / sa.literal(float(seconds), sa.Double()))
