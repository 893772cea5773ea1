"""Connect to the ledger: SQLite by default, PostgreSQL in production. Does not depend on the tables.

The measurements behind each rule are in docs/decisions/0002-the-ledger.md:
- SQLite with several writing processes: a file lock taken before BEGIN IMMEDIATE; busy_timeout alone gave lock
  errors. Reads go through a second engine with a plain BEGIN, so that they never queue behind a writer.
- PostgreSQL: 40P01 (deadlock) and 40001 (serialization) are retried; every wait has a limit that is shorter than
  any job's time-out, and no peer that has vanished holds a lock (handlers/support/postgresql.py).
- What is committed is on disk, or the ledger isn't written (`require_durability`): SQLite with synchronous=FULL,
  PostgreSQL with at least synchronous_commit=on, fsync and full_page_writes.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import event as sa_event
from sqlalchemy import exc as sa_exc

from handlers.support.url import hide_password
from receiver.domain.database_url import check_database_url
from receiver.errors import ConfigError
from receiver.ledger.database import dialect, errors, postgresql_engine, sqlite_engine
from receiver.ledger.database.database_clock import DatabaseClock
from receiver.ledger.database.errors import (
    LedgerDataError,
    LedgerNotDurable,
    LedgerUnavailable,
    OutcomeUnknown,
    Outdated,
)

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

    from handlers.support.postgresql import TimeLimits

T = TypeVar("T")
log = logging.getLogger("runhook.ledger")

# Seconds that a writer waits for the ledger's lock.
LOCK_WAIT: Final = 8.0
_TRIES = 5
# Seconds after which a transaction is not retried, since each attempt occupies a connection.
_TRY_FOR: Final = 10.0


class Ledger:
    """One ledger, used by one process. Connections open on first use, so it may be built before a fork.

    `url`: a SQLAlchemy URL; `sqlite:///path` or `postgresql://…`. Raises ConfigError for one that is neither.
    `require_durability`: refuse to write while the database may lose what it has confirmed. `limits`: of PostgreSQL.
    `clock`: see `now`. `lock_wait`: seconds that a writer waits for the ledger's lock.
    """

    def __init__(
        self,
        url: str,
        *,
        require_durability: bool = False,
        limits: TimeLimits | None = None,
        clock: DatabaseClock | None = None,
        lock_wait: float = LOCK_WAIT,
    ) -> None:
        self.url = checked_url(url)
        self._require_durability = require_durability
        self._limits = limits
        self.dialect = self.url.get_backend_name()
        self._on_sqlite = self.dialect == "sqlite"
        path = self.url.database if self._on_sqlite else None
        self._lock_wait = lock_wait
        self._file = sqlite_engine.LedgerFile(Path(path), lock_wait) if path else None
        self._engines: dict[bool, sa.Engine] = {}  # by whether they write; PostgreSQL's does both
        self._opening = threading.Lock()
        self._closed = False
        self._clock = clock or DatabaseClock()

    def __repr__(self) -> str:
        return f"Ledger({self.where})"

    @property
    def where(self) -> str:
        """The URL with masked secrets."""
        return hide_password(self.url.render_as_string(hide_password=False))

    def now(self) -> float:
        """Return the time by the database's clock, in seconds since the epoch. It decides what is due.

        The clock is read with the first transaction, or now. While it cannot be read, returns the host's time.
        """
        if not self._clock.has_reading and not self._on_sqlite:
            with suppress(LedgerUnavailable):
                self.read(lambda connection: connection.in_transaction() or connection.begin())
        return self._clock.now()

    def known_now(self) -> float:
        """Return the time as `now` does, but without waiting: before the first transaction, the host's time."""
        return self._clock.now()

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in one transaction and commit it.

        Runs `work` again if it raises Outdated, after a deadlock, and after a lost connection. A connection lost during
        COMMIT may have committed the first run. So `work` must write and return the same again, or call
        `dialect.forbid_rerun`. Raises LedgerUnavailable, LedgerDataError, and OutcomeUnknown for a transaction that
        forbids it; any other exception of `work` rolls back and propagates.
        """
        self._prepare()
        until = time.monotonic() + _TRY_FOR
        for number in range(1, _TRIES + 1):
            may_rerun = True
            try:
                alone = self._file.exclusive() if self._file else nullcontext()
                with alone, self._engine(write=True).begin() as connection:
                    if self._require_durability and (problem := _weakness(connection)):
                        raise LedgerNotDurable(problem)
                    result = work(connection)
                    may_rerun = dialect.may_rerun(connection)
                self._prepare()  # data written to a file that was deleted meanwhile is lost
                return result
            except (sa_exc.DBAPIError, sa_exc.TimeoutError) as error:
                if not may_rerun and errors.is_disconnect(error):
                    raise OutcomeUnknown from error
                if number == _TRIES or time.monotonic() > until or not errors.is_worth_a_retry(error):
                    raise self._failed(error) from error
                time.sleep(random.uniform(0.002, 0.02) * number)
            except Outdated as changed:
                if number == _TRIES:
                    raise LedgerUnavailable(f"{changed} while it was read, {_TRIES} times") from None
            except (UnicodeEncodeError, OverflowError) as error:  # a lone surrogate, a number too large
                raise LedgerDataError(str(error)) from error
        raise AssertionError("unreachable")

    def read(self, work: Callable[[sa.Connection], T], within: float | None = None, *, transaction: bool = True) -> T:
        """Run `work` in one read-only transaction.

        Raises LedgerUnavailable, and LedgerDataError for a value that no database can store. `within`: maximum seconds
        to wait for PostgreSQL, if shorter than the limits. `transaction`: False for a single query, which PostgreSQL
        then handles in one round trip instead of three.
        """
        self._prepare()
        until = math.inf if within is None else time.monotonic() + within
        for number in (1, 2):
            try:
                limit = nullcontext() if self._on_sqlite else postgresql_engine.deadline(until)
                with limit, self._engine(write=False).connect() as connection:
                    if not self._on_sqlite:
                        if connection.info["begin"]:  # behind a pooler, limits are set in the transaction
                            connection.begin()
                        elif not transaction:
                            connection.execution_options(isolation_level="AUTOCOMMIT")
                    return work(connection)
            except (sa_exc.DBAPIError, sa_exc.TimeoutError) as error:
                if number == 2 or time.monotonic() > until or not errors.is_worth_a_retry(error):
                    raise self._failed(error) from error
            except (UnicodeEncodeError, OverflowError) as error:
                raise LedgerDataError(str(error)) from error
        raise AssertionError("unreachable")

    def alter(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work`, which changes tables, as `write` does, but without a limit on the time of its statements.

        The limit on waiting for locks stays, because later transactions queue behind such a wait.
        """

        def without_limit(connection: sa.Connection) -> T:
            if self._on_sqlite:
                return work(connection)
            with postgresql_engine.without_limit(connection):
                return work(connection)

        return self.write(without_limit)

    def weakness(self) -> str:
        """Return why the database may lose what it has confirmed, if the config does not accept that; else "".

        Raises LedgerUnavailable.
        """
        return self.read(_weakness) if self._require_durability else ""

    def _failed(self, error: Exception) -> Exception:
        """Return the ledger's error for a failed transaction. Records one that took too long."""
        if errors.was_cancelled(error):
            with suppress(sa_exc.SQLAlchemyError):
                self._note_cancelled(error)
        return errors.translated(error, self.url.render_as_string(hide_password=False))

    def _note_cancelled(self, error: Exception) -> None:
        from receiver.ledger.database import timeouts  # imports the tables

        operation = timeouts.operation_of(frame for frame, _ in walk_tb(error.__traceback__))
        with self._engine(write=True).begin() as connection:
            times = timeouts.record(connection, operation, self.now())
        level = logging.ERROR if times >= timeouts.REPEATED else logging.WARNING
        reason = errors.first_line(getattr(error, "orig", None) or error)
        log.log(level, "ledger.cancelled operation=%s times=%d reason=%s", operation, times, reason)

    def _prepare(self) -> None:
        if self._file:
            self._file.prepare()

    def close(self) -> None:
        """Close all connections; one in use closes when its transaction ends.

        Unfinished work, such as a poll that waits for its response, may continue: each of its transactions then opens
        and closes its own connection.
        """
        with self._opening:
            self._closed = True
            engines, self._engines = self._engines, {}
        for engine in engines.values():
            sa_event.listen(engine, "checkin", _close_returned)
            engine.dispose()

    def _engine(self, *, write: bool) -> sa.Engine:
        write = write or not self._on_sqlite
        with self._opening:  # a second engine would keep connections that are never closed
            engine = self._engines.get(write)
            if engine is None:
                engine = self._engines[write] = self._open(write=write)
            return engine

    def _open(self, *, write: bool) -> sa.Engine:
        if self._on_sqlite:
            engine = sqlite_engine.make(self.url, self._lock_wait, "BEGIN IMMEDIATE" if write else "BEGIN")
        else:
            engine = postgresql_engine.make(self.url, self._lock_wait, self._limits, self._clock)
        if self._closed:
            sa_event.listen(engine, "checkin", _close_returned)
        return engine


def _close_returned(_connection: Any, record: ConnectionPoolEntry) -> None:
    """Close a connection that is returned to a closed pool."""
    record.invalidate()


def _weakness(connection: sa.Connection) -> str:
    """Return why the database may lose what it has confirmed, or "". SQLite's connections are always durable."""
    return str(connection.info.get("weakness", ""))


def checked_url(url: str) -> sa.URL:
    """Return `url` for SQLAlchemy, with Runhook's driver. Raises ConfigError, which shows a valid URL."""
    check_database_url(url)
    parsed = sa.make_url(url)
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    try:
        parsed.get_dialect()().create_connect_args(parsed)
    except sa_exc.ArgumentError as error:  # several hosts
        raise ConfigError(f"DATABASE_URL: {error}; right would be postgresql://user:password@host:5432/name") from None
    return parsed
