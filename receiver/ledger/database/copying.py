"""Copy a whole ledger into an empty one, such as from SQLite to PostgreSQL: everything in one transaction, or nothing.
Each table is read back and compared before the commit.

What describes running processes stays behind, and the target's clock builds the search index again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from receiver.errors import NotStarted, RunhookError, UsageError
from receiver.ledger import heartbeats, schema
from receiver.ledger.database import dialect, many_rows
from receiver.ledger.database.engine import Ledger
from receiver.ledger.database.errors import first_line
from receiver.runtime.process import process_space, process_state

_LEFT_OUT: Final = (schema.heartbeats, schema.timeouts, schema.to_index, schema.run_texts)
TABLES: Final = tuple(table for table in schema.metadata.sorted_tables if table not in _LEFT_OUT)

# Rows and bytes of one INSERT: bodies, and the JSON of requests, may have megabytes.
_ROWS: Final = 500
_BYTES: Final = 8 << 20
_FETCHED: Final = 20


def count(ledger: Ledger) -> int:
    """Return how many rows a copy has. Raises LedgerUnavailable."""
    counts = [sa.select(sa.func.count()).select_from(table).scalar_subquery() for table in TABLES]
    return ledger.read(lambda connection: sum(connection.execute(sa.select(*counts)).one()))


def copy(source: Ledger, target: Ledger, copied: Callable[[int], None]) -> dict[str, int]:
    """Copy all rows of `source`, which no process uses, to `target`, which has the tables and no rows.

    `copied`: called with the number of rows so far. Returns the rows of each table. Raises NotStarted if `source` is in
    use or cannot be read, UsageError if `target` contains rows, RunhookError if it stores other ones than it was given,
    LedgerUnavailable and LedgerDataError for it; nothing is in `target` then.
    """

    def work(connection: sa.Connection) -> dict[str, int]:
        _require_unused(connection)
        return target.alter(lambda into: _copy_tables(connection, into, copied))

    return source.read(work)


def _copy_tables(source: sa.Connection, target: sa.Connection, copied: Callable[[int], None]) -> dict[str, int]:
    dialect.serialize(target, "copy a ledger")
    dialect.forbid_rerun(target)  # a second run would find the rows of the first
    _require_empty(target)
    counts = dict.fromkeys((table.name for table in TABLES), 0)
    differ = []
    for table in TABLES:
        given = stored = (0, 0)
        for rows in _batches(_readable(_rows(source, table)), table):
            many_rows.insert_many(target, table, rows)
            given = _add(given, rows)
            counts[table.name] += len(rows)
            copied(sum(counts.values()))
        for rows in _batches(_rows(target, table), table):
            stored = _add(stored, rows)
        if given != stored:
            differ.append(f"{table.name} ({given[0]:,} rows here, {stored[0]:,} there)")
        _continue_numbers(target, table)
    if differ:
        raise RunhookError(
            f"the copy differs in {', '.join(differ)}, so nothing was copied. Look for triggers and rules in the"
            " target, or name another database"
        )
    changes = sa.select(schema.runs.c.source, schema.runs.c.run_id, dialect.now(target))
    in_order = changes.order_by(schema.runs.c.updated_at, schema.runs.c.run_id)
    target.execute(sa.insert(schema.to_index).from_select(["source", "run_id", "queued_at"], in_order))
    return counts


def _add(contents: tuple[int, int], rows: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Return the number of rows and the sum of their hashes, which are of this process alone, with these `rows`."""
    return contents[0] + len(rows), contents[1] + sum(hash(tuple(row.values())) for row in rows)


def _rows(connection: sa.Connection, table: sa.Table) -> Iterator[sa.Row[Any]]:
    yield from connection.execute(sa.select(table).order_by(*table.primary_key).execution_options(yield_per=_FETCHED))


def _batches(rows: Iterator[sa.Row[Any]], table: sa.Table) -> Iterator[list[dict[str, Any]]]:
    """Yield rows of a table in batches of at most _ROWS rows and about _BYTES bytes."""
    batch: list[dict[str, Any]] = []
    size = 0
    names = [str(column.name) for column in table.columns]
    for row in rows:
        batch.append({name: _storable(value) for name, value in zip(names, row, strict=True)})
        size += sum(len(value) for value in row if isinstance(value, (bytes, str)))
        if len(batch) == _ROWS or size > _BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _readable(rows: Iterator[sa.Row[Any]]) -> Iterator[sa.Row[Any]]:
    """Yield the source's rows. For its errors the target's transaction must not repeat."""
    try:
        yield from rows
    except sa_exc.DBAPIError as error:
        raise NotStarted(f"the ledger can't be read: {first_line(error.orig or error)}") from None


def _storable(value: Any) -> Any:
    """Return a value without NUL, which SQLite stores in a text and PostgreSQL refuses."""
    return value.replace("\0", "") if isinstance(value, str) else value


def _require_unused(connection: sa.Connection) -> None:
    """Raise NotStarted if a process uses the ledger: what it writes during the copy would be missing."""
    seen = [each.beat for each in heartbeats.list_processes(connection) if each.state not in ("stopped", "silent")]
    space = process_space()  # of processes in it the kernel knows more than their last heartbeat
    used = [it for it in seen if it.details.get("space") != space or process_state(it.pid) != "gone"]
    names = sorted({f"process {it.pid} on {it.host}" for it in used})
    if names:
        raise NotStarted(
            f"the ledger is in use by {', '.join(names)}: stop all processes first; one that was killed on"
            " another host counts as running for 35 s"
        )


def _require_empty(connection: sa.Connection) -> None:
    filled = [table.name for table in TABLES if connection.execute(sa.select(table).limit(1)).first() is not None]
    if filled:
        raise UsageError(f"--to: this ledger contains rows already, in {', '.join(filled)}; name an empty database")


def _continue_numbers(connection: sa.Connection, table: sa.Table) -> None:
    """Number new rows of a table behind the existing ones, whose numbers were inserted. SQLite always does."""
    column = table.autoincrement_column
    if column is None or connection.dialect.name != "postgresql":
        return
    sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
    last = sa.select(sa.func.max(column)).scalar_subquery()
    connection.execute(sa.select(sa.func.setval(sequence, last)).where(last.is_not(None)))
