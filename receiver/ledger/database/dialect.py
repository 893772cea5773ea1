"""Hide the differences between SQLite and PostgreSQL: locks, times, lists of values, texts, planner hints.

On PostgreSQL a list of values is an array, on SQLite JSON: the text of a statement does not depend on their number.
"""

from __future__ import annotations

import hashlib
import json
import string
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

from receiver.domain.run import RunKey

_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

# PostgreSQL's time, in seconds since the epoch.
ASK: Final = "extract(epoch FROM clock_timestamp())::float8"


def json_text(value: Any) -> str:
    """Return JSON as the ledger stores and searches labels. Lone surrogates, which clients reject, become `?`."""
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


def forbid_rerun(connection: sa.Connection) -> None:
    """Never run this transaction again after a COMMIT without a reply: it would count or insert twice."""
    connection.execution_options(rerun=False)


def may_rerun(connection: sa.Connection) -> bool:
    """Whether `forbid_rerun` was not called for this transaction."""
    return bool(connection.get_execution_options().get("rerun", True))


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


class _Form(NamedTuple):
    """An expression that the databases spell differently. `type`: None also for conditions: to a boolean SQLAlchemy
    appends " = 1", which hides the index from SQLite's planner."""

    sqlite: str
    postgresql: str
    type: Any = None


_FORMS: Final = {
    "among": _Form("({} IN (SELECT value FROM json_each({})))", "({} = ANY ({}))"),  # whether a value is in a list
    "texts": _Form("json_each({})", "json_array_elements_text(CAST({} AS JSON))"),  # of a JSON list, as a table
    "by_index": _Form("{} INDEXED BY {}", "{}"),  # PostgreSQL chooses the index automatically
    "position": _Form("instr({}, {})", "strpos({}, {})", sa.Integer),  # of a text in another, from 1; 0 if missing
    "whole": _Form("CAST({} AS INTEGER)", "CAST(floor({}) AS BIGINT)", sa.BigInteger),  # a number without its fraction
}


def _spelt(element: Any, compiler: Any, **options: Any) -> str:
    parts = (compiler.process(each, **options) for each in element.clauses)
    return str(getattr(_FORMS[element.name], compiler.dialect.name)).format(*parts)


def _element(name: str) -> Callable[..., FunctionElement[Any]]:
    """Return the class of SQLAlchemy's elements of a form."""
    kind = _FORMS[name].type
    members = {"name": name, "inherit_cache": True, **({"type": kind()} if kind else {})}
    made: type[FunctionElement[Any]] = type(f"_{name}", (FunctionElement,), members)
    compiles(made)(_spelt)
    return made


_Among, _Texts, _ByIndex = _element("among"), _element("texts"), _element("by_index")
_Position, _Whole = _element("position"), _element("whole")


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
    pairs = among(_run_key(table), [" ".join(key) for key in wanted])
    return sa.and_(among(table.c.run_id, sorted({run_id for _, run_id in wanted})), pairs)


def _run_key(table: sa.Table) -> sa.ColumnElement[str]:
    return table.c.source + sa.literal_column("' '") + table.c.run_id


_RUN_IDS, _RUN_KEYS = "b_run_ids", "b_run_keys"


def of_given_runs(table: sa.Table) -> sa.ColumnElement[bool]:
    """Return the same condition for the parameters of `given_runs`, so that the statement is compiled once."""
    return sa.and_(among_given(table.c.run_id, _RUN_IDS), among_given(_run_key(table), _RUN_KEYS))


def given_runs(keys: Iterable[RunKey]) -> dict[str, list[str]]:
    """Return the parameters of a statement with `of_given_runs`."""
    wanted = sorted(set(keys))
    return {_RUN_IDS: sorted({run_id for _, run_id in wanted}), _RUN_KEYS: [" ".join(key) for key in wanted]}


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


def update_planner_statistics(connection: sa.Connection) -> None:
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
