"""One database: connections, locks, time limits; maps driver errors to Refused and Unavailable. Knows no tables.

Its rules:
- Every wait ends at the deadline: for a connection, a lock, a statement, or a server that stopped during a response.
- SQLite is written under a file lock acquired before BEGIN IMMEDIATE, since busy_timeout alone gave lock errors with
  several writers. The lock is the database's file name with .lock added; other writers should use it too.
- Every confirmed write is on disk. A weaker database is not written, unless the operator accepts it.
- A driver's message may quote the row, and the statement contains it: neither is ever shown.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import event, exc

from handlers.contract import Unavailable
from handlers.support import postgresql
from handlers.support.file_lock import FileLock, NotLocked
from handlers.support.postgresql import LATE, BoundedConnection, Session, TimeLimits
from handlers.support.private_file import make_private_file
from handlers.support.url import hide_secrets

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

# Longest time for connecting, in seconds, even if a send may take longer.
MAX_CONNECT = 10.0
# SQLite's minimum `synchronous` that syncs commits to disk.
FULL = 2

# SQLSTATE classes caused by the row: wrong data, constraints, sizes, what a trigger raised.
#
# All others (connections, permissions, missing tables, deadlocks, full disks) are temporary, or an operator can fix
# them. Messages by SQLSTATE.
_WORDS = {
    "23502": "a value is missing in a column that is NOT NULL",
    "23503": "a foreign key forbids it",
    "23505": "a row with this key exists already",
    "23514": "a value fails a check",
}
_ROW_ERRORS = {"21", "22", "23", "38", "39", "44", "54", "P0"}
# Classes whose message may quote the row or the statement, and so is not shown.
_QUOTING_ERRORS = _ROW_ERRORS | {"42"}

log = logging.getLogger("runhook.database")


class RowRejected(Exception):
    """The database refused a row of the batch. Nothing of the batch was written. The message contains none of its
    values."""


class TableMismatch(Unavailable):
    """The table does not fit the statement. It may have changed since the check."""


class Database:
    """The database at `url` (from options.parse_url). Opens nothing until the first transaction.

    `timeout`: seconds that a transaction may take. `accept_weaker`: write although it may lose what it has confirmed,
    and leave PostgreSQL's synchronous_commit as it is. `name`: of the sink, for the log. `dialect`: "sqlite" or
    "postgresql". `file`: of a SQLite database.
    """

    def __init__(self, url: sa.URL, timeout: float, *, accept_weaker: bool = False, name: str = "") -> None:
        self._url = url
        self.dialect = url.get_backend_name()
        self.file = str(url.database)
        self.is_sqlite = self.dialect == "sqlite"
        self._timeout = timeout
        self._accept_weaker = accept_weaker
        self._name = name
        self._logged: tuple[str, ...] = ()
        # An idle connection to a vanished host must not use up a send's time.
        self._limits = TimeLimits(connect=min(timeout / 2, MAX_CONNECT), peer=max(1.0, min(timeout, 10.0)))
        self._engine: sa.Engine | None = None
        self._opening = threading.Lock()
        self._closed = False
        self._lock = FileLock(Path(f"{self.file}.lock")) if self.is_sqlite else None

    @contextmanager
    def transaction(self, deadline: float) -> Iterator[sa.Connection]:
        """Run a transaction that commits or fails by `deadline` (time.monotonic(), seconds).

        Raises Unavailable, TableMismatch (a subclass) or RowRejected. Then nothing was written; or all of it, if the
        connection was lost at the commit. Also Unavailable when commits may be lost and `accept_weaker` is off.
        """
        with self._bounded(deadline):
            if self._lock is None:
                with self._begin_postgresql() as connection:
                    self._require_durability(connection.info["session"])
                    yield connection
            else:
                with self._lock.held(deadline - time.monotonic()), self._open().begin() as connection:
                    yield connection

    @contextmanager
    def _begin_postgresql(self) -> Iterator[sa.Connection]:
        """Begin a transaction. A connection that broke while it was idle is replaced."""
        with ExitStack() as stack:
            try:
                connection = stack.enter_context(self._open().begin())
            except exc.DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                connection = stack.enter_context(self._open().begin())
            yield connection

    @contextmanager
    def _bounded(self, deadline: float) -> Iterator[None]:
        """Bound all waits for PostgreSQL inside, and translate a driver's errors."""
        token = postgresql.deadline.set(deadline)
        try:
            yield
        except NotLocked as error:
            raise Unavailable(f"the database file {error}") from None
        except exc.TimeoutError:
            raise Unavailable("all connections to the database are in use") from None
        except exc.DBAPIError as error:
            raise self._translated(error) from None
        except psycopg.Error as error:
            raise self._from_postgresql(error) from None
        except (UnicodeError, OverflowError) as error:  # the driver can't encode a value
            raise RowRejected(type(error).__name__) from None
        finally:
            postgresql.deadline.reset(token)

    def close(self) -> None:
        """Close all connections; those still in use close after their transaction."""
        with self._opening:
            self._closed = True
            engine, self._engine = self._engine, None
        if engine is not None:
            event.listen(engine, "checkin", _close_returned)
            engine.dispose()

    def _open(self) -> sa.Engine:
        with self._opening:
            if self._engine is None:
                self._engine = self._open_sqlite() if self.is_sqlite else self._open_postgresql()
                if self._closed:
                    event.listen(self._engine, "checkin", _close_returned)
            return self._engine

    def _open_postgresql(self) -> sa.Engine:
        engine = sa.create_engine(
            self._url,
            # No prepared statements: a pooler in between may send each transaction to another connection.
            connect_args={"prepare_threshold": None},
            hide_parameters=True,
            pool_recycle=1800,
            pool_size=4,
            max_overflow=28,
            pool_timeout=self._timeout,
        )
        defaults = {**postgresql.client_options(self._limits), "application_name": "runhook"}

        @event.listens_for(engine, "do_connect")
        def _connect(_dialect: Any, _record: Any, arguments: Any, options: dict[str, Any]) -> BoundedConnection:
            if time.monotonic() > postgresql.deadline.get():  # the pool also connects to replace a dead connection
                raise psycopg.OperationalError(LATE)
            try:
                connection = BoundedConnection.connect(*arguments, **{**defaults, **options})
            except psycopg.ProgrammingError as error:  # a parameter of the URL, not a row
                raise psycopg.OperationalError(str(error)) from None
            postgresql.require_encoding(connection)
            return connection

        @event.listens_for(engine, "connect")
        def _on_connect(connection: Any, record: Any) -> None:
            record.info["session"] = postgresql.open_session(connection, self._limits)

        @event.listens_for(engine, "begin")
        def _on_begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql(f"{self._begin(connection.info['session'])}; SET LOCAL TimeZone = 'UTC'")

        return engine

    def _begin(self, session: Session) -> str:
        """Return the statements that begin a transaction. The server's timeout is shorter than ours, so it reports the
        cause."""
        left = max(0.0, postgresql.deadline.get() - time.monotonic())
        limits = replace(self._limits, statement=left * 0.9, lock=left * 0.8, idle=min(left, self._limits.idle))
        return postgresql.begin(limits) if self._accept_weaker else session.begin(limits)

    def _require_durability(self, session: Session) -> None:
        """Raises Unavailable when the server may lose confirmed commits, and the operator has not accepted that."""
        if session.weaknesses and not self._accept_weaker:
            raise Unavailable(
                f"PostgreSQL may lose what it has confirmed: {'; '.join(session.weaknesses)}. Or accept that with"
                " accept_weaker_durability: true among the options of this sink"
            )
        if session.weaknesses != self._logged:
            self._logged = session.weaknesses
            log.warning("database.weaker sink=%s accepted: %s", self._name, "; ".join(session.weaknesses) or "no more")

    def _open_sqlite(self) -> sa.Engine:
        with suppress(OSError):  # SQLite's message explains the path problem
            make_private_file(Path(self.file))
        engine = sa.create_engine(
            self._url, connect_args={"timeout": self._timeout}, hide_parameters=True, pool_timeout=self._timeout
        )

        @event.listens_for(engine, "connect")
        def _on_connect(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # the driver must not begin transactions itself
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            (level,) = connection.execute("PRAGMA synchronous").fetchone()
            if level < FULL:
                raise sqlite3.OperationalError(f"PRAGMA synchronous stays {level}, but must be FULL")

        @event.listens_for(engine, "begin")
        def _on_begin(connection: sa.Connection) -> None:
            left = min(postgresql.deadline.get() - time.monotonic(), self._timeout)
            connection.exec_driver_sql(f"PRAGMA busy_timeout={max(1, int(left * 1000))}")
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        return engine

    def _translated(self, error: exc.DBAPIError) -> Exception:
        cause = error.orig
        if isinstance(cause, psycopg.Error):
            return self._from_postgresql(cause)
        name = str(getattr(cause, "sqlite_errorname", "") or type(cause).__name__)
        words = _one_line(str(cause))
        about_row = ("SQLITE_CONSTRAINT", "SQLITE_MISMATCH", "SQLITE_RANGE", "SQLITE_TOOBIG")
        if name.startswith(about_row) or isinstance(cause, OverflowError):
            # The message names the column and quotes no value.
            return RowRejected(f"SQLite refused the row: {words if name == 'SQLITE_CONSTRAINT_NOTNULL' else name}")
        if name == "SQLITE_ERROR":  # its messages name tables and columns, and quote no values
            return TableMismatch(f"SQLite: {words}")
        return Unavailable(f"SQLite: {words} ({name})")

    def _from_postgresql(self, cause: psycopg.Error) -> Exception:
        state = cause.sqlstate or ""
        if not state:
            if isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError):
                return Unavailable(f"PostgreSQL can't be reached: {self._hidden(_one_line(str(cause)))}")
            return RowRejected(f"the row can't be sent to PostgreSQL: {type(cause).__name__}")
        where = ", ".join(
            f"{what} {name}"
            for what, name in (
                ("table", cause.diag.table_name),
                ("column", cause.diag.column_name),
                ("constraint", cause.diag.constraint_name),
            )
            if name
        )
        what = _WORDS.get(state, f"{type(cause).__name__} {state}") + (f": {where}" if where else "")
        if state[:2] in _ROW_ERRORS:
            return RowRejected(f"PostgreSQL refused the row: {what}")
        quotes_nothing = (
            state[:2] not in _QUOTING_ERRORS or state == "42501"
        )  # insufficient privilege names only the table
        words = _one_line(cause.diag.message_primary or "") if quotes_nothing else ""
        message = f"PostgreSQL: {words} ({what})" if words else f"PostgreSQL: {what}"
        if state[:2] == "42" and state != "42501":
            return TableMismatch(message)
        return Unavailable(self._hidden(message))

    def _hidden(self, message: str) -> str:
        return hide_secrets(message, self._url.render_as_string(hide_password=False))


def _close_returned(_connection: Any, record: ConnectionPoolEntry) -> None:
    """Close a connection returned to a closed pool."""
    record.invalidate()


def _one_line(message: str) -> str:
    return re.sub(r"\s+", " ", message).strip()[:300]
