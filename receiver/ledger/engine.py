"""Connections to the ledger: SQLite by default, PostgreSQL in production. Knows no table.

What was measured and is held here (see docs/decisions/0002-the-ledger.md):
- SQLite with several writing processes: a file lock taken before BEGIN IMMEDIATE; busy_timeout alone gave lock
  errors. Reads go through a second engine with a plain BEGIN, so that they never queue behind a writer.
- PostgreSQL: 40P01 (deadlock) and 40001 (serialization) are retried; every wait has a limit that is shorter than
  any job's time-out, and no peer that has vanished holds a lock (handlers/support/postgresql.py).
- What is committed is on disk, or the ledger isn't written (`require_durability`): SQLite with synchronous=FULL,
  PostgreSQL with at least synchronous_commit=on, fsync and full_page_writes.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import event as sa_event
from sqlalchemy import exc as sa_exc

from handlers.support.file_lock import FileLock, NotLocked
from handlers.support.kept_connections import KeptConnections
from handlers.support.private_file import make_private_file
from handlers.support.url import hide_password, hide_secrets
from receiver.ledger import postgresql_engine, requests, sqlite_engine
from receiver.ledger.database_clock import DatabaseClock
from receiver.ledger.database_url import checked_url

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

    from handlers.support.postgresql import TimeLimits
    from receiver.ledger.requests import Asked

T = TypeVar("T")
log = logging.getLogger("runhook.ledger")

# Seconds that a writer waits for the ledger's lock.
LOCK_WAIT = 8.0
# The last two: the session has forgotten what it had prepared, or prepared it for a table that was altered since.
_RETRYABLE = {"40P01", "40001", "26000", "0A000"}
# What is wrong with the database, the session or the program, whatever the values are.
_OF_NO_VALUE: Final = (
    *(sa_exc.OperationalError, sa_exc.InterfaceError, sa_exc.InternalError, sa_exc.ProgrammingError),
    sa_exc.NotSupportedError,
)
_CANCELLED = "57014"  # a statement that took too long
_TRIES = 5
# Seconds after which a transaction is not tried again: a connection that is held takes them all.
_TRY_FOR: Final = 10.0


class LedgerUnavailable(Exception):
    """The ledger can't be used now (gone, locked, full). Nothing was written. Work pauses and is tried again."""


class LedgerNotDurable(LedgerUnavailable):
    """The database may lose what it has confirmed. Nothing was written."""


class Outdated(Exception):
    """What a transaction has read changed before it had its locks: `Ledger.write` rolls it back and runs it again."""


class LedgerDataError(Exception):
    """The database refused a value. Nothing was written; a batch is split to find the one that is to blame."""


class Ledger:
    """One ledger, used by one process. Connections open on first use, so it may be built before a fork.

    `url`: a SQLAlchemy URL; `sqlite:///path` or `postgresql://…`. Raises ConfigError for one that is neither.
    `require_durability`: don't write while the database may lose what it has confirmed. `limits`: of PostgreSQL.
    """

    def __init__(self, url: str, *, require_durability: bool = False, limits: TimeLimits | None = None) -> None:
        self.url = checked_url(url)
        self._require_durability = require_durability
        self._limits = limits
        self.dialect = self.url.get_backend_name()
        self._lock = FileLock(Path(self.url.database + ".lock")) if self._is_file() and self.url.database else None
        self._writer: sa.Engine | None = None
        self._reader: sa.Engine | None = None
        self._opening = threading.Lock()
        self._closed = False
        self._clock = DatabaseClock()
        self._kept = KeptConnections[sa.Connection]()
        self._prepared = False

    def __repr__(self) -> str:
        return f"Ledger({self.where})"

    @property
    def where(self) -> str:
        """The URL with its secrets as stars."""
        return hide_password(self.url.render_as_string(hide_password=False))

    @property
    def has_requests(self) -> bool:
        """Whether statements go to a server, so that several in one request cost less; see requests.py."""
        return not self._is_file()

    def _translated(self, error: Exception) -> Exception:
        return _translated(error, self.url.render_as_string(hide_password=False))

    def now(self) -> float:
        """Return the time by which is compared what is due, in seconds since the epoch: the database's.

        It is asked for with the first transaction, or now if there was none; while it can't be, this is the host's.
        """
        if not self._clock.known and not self._is_file():
            with suppress(LedgerUnavailable):
                self.read(lambda connection: connection.in_transaction() or connection.begin())
        return self._clock.now()

    def known_now(self) -> float:
        """Return the time as `now` does, but wait for nothing: before the first transaction it is the host's."""
        return self._clock.now()

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in one transaction and commit it; may run it again after a deadlock or a lost connection, and does
        when it raises Outdated.

        Raises LedgerUnavailable or LedgerDataError; any other exception of `work` rolls back and passes through.
        """
        self._prepare()
        until = time.monotonic() + _TRY_FOR
        for number in range(1, _TRIES + 1):
            try:
                with self._exclusive(), self._begun() as connection:
                    if self._require_durability and (problem := _weakness(connection)):
                        raise LedgerNotDurable(problem)
                    return work(connection)
            except (sa_exc.DBAPIError, sa_exc.TimeoutError) as error:
                if number == _TRIES or time.monotonic() > until or not _worth_a_retry(error):
                    raise self._failed(error) from error
                time.sleep(random.uniform(0.002, 0.02) * number)
            except Outdated as changed:
                if number == _TRIES:
                    raise LedgerUnavailable(f"{changed} while it was read, {_TRIES} times") from None
            except (UnicodeEncodeError, struct.error) as error:  # a lone surrogate, a number too large
                raise LedgerDataError(str(error)) from error
        raise AssertionError("unreachable")

    @contextmanager
    def _begun(self) -> Iterator[sa.Connection]:
        """Begin a transaction that writes. For SQLite a connection is kept: SQLAlchemy's pool costs more than BEGIN."""
        if not self._is_file():
            with self._engine(write=True).begin() as connection:
                yield connection
            return
        with self._kept.one(self._engine(write=True).connect) as connection, sqlite_engine.writing(connection):
            yield connection

    def write_at_once(self, ask: Callable[[sa.Connection], Sequence[Asked]]) -> list[Sequence[Any]]:
        """Run the statements of `ask` in one transaction, which knows no more than they say, and return the rows of
        each. Asks, tries again and raises as `write` does, for less where that is one request."""
        if self.has_requests and not self._clock.stale:
            try:
                with self._kept.one(self._engine(write=True).connect) as connection:
                    if not (connection.info["begin"] or (self._require_durability and _weakness(connection))):
                        return requests.run(connection, *ask(connection), commit=True)
            except (sa_exc.DBAPIError, sa_exc.TimeoutError) as error:
                if not _worth_a_retry(error):
                    raise self._failed(error) from error
            except (UnicodeEncodeError, struct.error) as error:
                raise LedgerDataError(str(error)) from error
        return self.write(lambda connection: requests.run(connection, *ask(connection), commit=True))

    def read_at_once(self, *asked: Asked) -> list[Sequence[Any]]:
        """Run statements that only read, in one transaction, and return the rows of each. Raises as `write_at_once`."""
        if self.has_requests:
            return self.write_at_once(lambda _: asked)
        return self.read(lambda connection: requests.run(connection, *asked))

    def read(self, work: Callable[[sa.Connection], T], within: float | None = None, *, transaction: bool = True) -> T:
        """Run `work` in one read-only transaction. Raises LedgerUnavailable.

        `within`: seconds after which a PostgreSQL that does not answer is given up, sooner than the limits say.
        `transaction`: False for a query that stands for itself; PostgreSQL is then asked once and not three times.
        """
        self._prepare()
        until = float("inf") if within is None else time.monotonic() + within
        for number in (1, 2):
            try:
                with self._deadline(until), self._engine(write=False).connect() as connection:
                    if not self._is_file():
                        if connection.info["begin"]:  # behind a pooler the limits are set with the transaction
                            connection.begin()
                        elif not transaction:
                            connection.execution_options(isolation_level="AUTOCOMMIT")
                    return work(connection)
            except (sa_exc.DBAPIError, sa_exc.TimeoutError) as error:
                if number == 2 or time.monotonic() > until or not _worth_a_retry(error):
                    raise self._failed(error) from error
        raise AssertionError("unreachable")

    def first_of_sqlite(self, text: str, values: Sequence[Any] | Mapping[str, Any]) -> Any:
        """Return the first row of a query of SQLite, past SQLAlchemy, which costs more. Raises LedgerUnavailable."""
        try:
            self._prepare()
            with closing(self._engine(write=False).raw_connection()) as connection:
                return connection.dbapi_connection.execute(text, values).fetchone()  # type: ignore[union-attr]
        except (sqlite3.Error, sa_exc.DBAPIError, sa_exc.TimeoutError) as error:
            raise self._translated(error) from error

    def alter(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work`, which changes tables, as `write` does, but let its statements take the time that they need.

        They wait no longer than others for locks: whoever comes after them waits for these as well.
        """

        def without_limit(connection: sa.Connection) -> T:
            if connection.dialect.name != "postgresql":
                connection.begin()  # what makes tables asks whether SQLAlchemy has
                return work(connection)
            driver: Any = connection.connection.dbapi_connection
            limit, driver.longest_wait = driver.longest_wait, float("inf")
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            try:
                return work(connection)
            finally:
                driver.longest_wait = limit

        return self.write(without_limit)

    @contextmanager
    def idle_transaction(self) -> Iterator[sa.Connection]:
        """Begin a transaction for the block that may be idle in it for as long as it takes; it is rolled back.

        What it holds is free again within TimeLimits.peer when this host vanishes. Raises LedgerUnavailable.
        """
        try:
            with self._engine(write=True).connect() as connection:
                if connection.dialect.name == "postgresql":
                    connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
                yield connection
        except (sa_exc.DBAPIError, sa_exc.TimeoutError) as error:
            raise self._translated(error) from error

    def run_alone(self, statement: str) -> None:
        """Run one statement of PostgreSQL that can be in no transaction, however long it takes.

        It waits for locks as long: nobody waits for such statements. Raises LedgerUnavailable.
        """
        import psycopg  # not needed with SQLite

        try:
            connection = self._engine(write=True).raw_connection()
        except (sa_exc.DBAPIError, sa_exc.TimeoutError) as error:
            raise self._translated(error) from error
        driver: Any = connection.dbapi_connection
        driver.longest_wait = float("inf")
        try:
            driver.autocommit = True
            if not connection.info["begin"]:  # else the session is a pooler's, and has no limits but in transactions
                driver.execute("SET statement_timeout = 0; SET lock_timeout = 0", prepare=False)
            driver.execute(statement, prepare=False)
        except psycopg.Error as error:
            raise LedgerUnavailable(_first_line(error)) from error
        finally:
            connection.invalidate()  # its settings are not those of the others

    def weakness(self) -> str:
        """Return why the database may lose what it has confirmed, where that is not accepted; else "".

        Raises LedgerUnavailable.
        """
        return self.read(_weakness) if self._require_durability else ""

    def _failed(self, error: Exception) -> Exception:
        """Return the ledger's own error for a transaction that failed. One that took too long is noted."""
        if isinstance(error, sa_exc.DBAPIError) and getattr(error.orig, "sqlstate", None) == _CANCELLED:
            with suppress(sa_exc.SQLAlchemyError):
                self._note_cancelled(error)
        return self._translated(error)

    def _note_cancelled(self, error: sa_exc.DBAPIError) -> None:
        from receiver.ledger import timeouts  # which knows the tables

        operation = timeouts.operation_of(frame for frame, _ in walk_tb(error.__traceback__))
        with self._engine(write=True).begin() as connection:
            times = timeouts.note(connection, operation, self.now())
        log.log(
            logging.ERROR if times >= timeouts.REPEATED else logging.WARNING,
            "ledger.cancelled operation=%s times=%d reason=%s",
            operation,
            times,
            self._translated(error),
        )

    @contextmanager
    def _deadline(self, until: float) -> Iterator[None]:
        if until == float("inf") or self.dialect != "postgresql":
            yield
            return
        from handlers.support import postgresql  # not needed with SQLite

        token = postgresql.deadline.set(min(until, postgresql.deadline.get()))
        try:
            yield
        finally:
            postgresql.deadline.reset(token)

    def _prepare(self) -> None:
        """Put a new SQLite file into WAL mode, which it then stays in, under the lock that writers take.

        The first switch answers "database is locked" at once, whatever busy_timeout says, while another process opens
        the file: of six processes that began together on a new ledger, one failed in every twentieth round.
        """
        if self._prepared or self._lock is None:
            return
        path = Path(str(self.url.database))
        with self._exclusive():  # which makes the folder
            with suppress(OSError):  # SQLite says what is wrong with the path
                make_private_file(path)
            try:
                with closing(sqlite3.connect(path, timeout=5.0)) as connection:
                    connection.execute("PRAGMA journal_mode=WAL")
            except sqlite3.Error as error:
                raise LedgerUnavailable(str(error)) from error
        self._prepared = True

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        if self._lock is None:
            yield
            return
        try:
            with self._lock.held(LOCK_WAIT):
                yield
        except NotLocked as error:
            raise LedgerUnavailable(f"the ledger {error}") from None

    def close(self) -> None:
        """Close all connections; one that is in use as soon as its transaction ends.

        Work that is not over yet, such as a poll that waits for its answer, may go on: each of its transactions then
        has a connection that is closed with it.
        """
        with self._opening:
            self._closed = True
            engines, self._writer, self._reader = {self._writer, self._reader}, None, None
        for engine in filter(None, engines):
            sa_event.listen(engine, "checkin", _close_returned)
            engine.dispose()
        self._kept.close()
        if self._lock is not None:
            self._lock.close()

    def _is_file(self) -> bool:
        return self.dialect == "sqlite"

    def _engine(self, *, write: bool) -> sa.Engine:
        engine = self._writer if write else self._reader
        if engine is None:
            with self._opening:  # checked again: a second engine would keep connections that nobody closes
                engine = (self._writer if write else self._reader) or self._open(write=write)
        return engine

    def _open(self, *, write: bool) -> sa.Engine:
        if not self._is_file():
            self._writer = self._reader = engine = postgresql_engine.make(
                self.url, LOCK_WAIT, self._limits, self._clock
            )
        elif write:
            with suppress(OSError):  # SQLite says what is wrong with the path
                make_private_file(Path(str(self.url.database)))
            self._writer = engine = sqlite_engine.make(self.url, LOCK_WAIT, "BEGIN IMMEDIATE")
        else:
            self._reader = engine = sqlite_engine.make(self.url, LOCK_WAIT, "BEGIN")
        if self._closed:
            sa_event.listen(engine, "checkin", _close_returned)
        return engine


def _close_returned(_connection: Any, record: ConnectionPoolEntry) -> None:
    """Close a connection that comes back to a pool of which nobody takes any more."""
    record.invalidate()


def _weakness(connection: sa.Connection) -> str:
    """Return why the database may lose what it has confirmed, or "". SQLite's connections have been made safe."""
    return str(connection.info.get("weakness", ""))


def _worth_a_retry(error: Exception) -> bool:
    if isinstance(error, sa_exc.DBAPIError):
        return error.connection_invalidated or getattr(error.orig, "sqlstate", None) in _RETRYABLE
    return False


def _translated(error: Exception, url: str) -> Exception:
    """Return the ledger's own error for a driver's: without the statement or its values, which hold payloads."""
    if isinstance(error, (sa_exc.DataError, sa_exc.StatementError)) and not isinstance(error, _OF_NO_VALUE):
        return LedgerDataError(type(error).__name__)
    original = getattr(error, "orig", None) or error
    return LedgerUnavailable(hide_secrets(_first_line(original), url))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
