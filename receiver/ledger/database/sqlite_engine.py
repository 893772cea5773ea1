"""Create the file of a ledger on SQLite and connect to it. Commits are on disk, and transactions begin explicitly."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event as sa_event

from handlers.support.file_lock import FileLock, NotLocked
from handlers.support.private_file import make_private_file
from receiver.ledger.database.errors import LedgerUnavailable

# The lowest value of SQLite's `synchronous` at which commits are on disk.
_FULL: Final = 2


class LedgerFile:
    """The file, and the lock that writers take before a transaction. `wait`: maximum seconds to wait for the lock."""

    def __init__(self, path: Path, wait: float) -> None:
        self._path = path
        self._wait = wait
        self._lock = FileLock(Path(f"{path}.lock"))
        self._opened: tuple[int, int] | None = None

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock during the block. Raises LedgerUnavailable."""
        try:
            with self._lock.held(self._wait):
                yield
        except NotLocked as error:
            raise LedgerUnavailable(f"the ledger {error}") from None

    def prepare(self) -> None:
        """Create the file, readable only by its owner, in WAL mode, which is permanent.

        Takes the lock, because the first switch to WAL fails at once with "database is locked" while another process
        opens the file, regardless of busy_timeout. Raises LedgerUnavailable.
        """
        if self._opened is not None:
            self.require_same()
            return
        with self.exclusive():  # also creates the folder
            with suppress(OSError):  # SQLite reports what is wrong with the path
                make_private_file(self._path)
            try:
                with closing(sqlite3.connect(self._path, timeout=5.0)) as connection:
                    connection.execute("PRAGMA journal_mode=WAL")
            except sqlite3.Error as error:
                raise LedgerUnavailable(str(error)) from error
            self._opened = self._identity()

    def require_same(self) -> None:
        """Raise LedgerUnavailable if the file was deleted or replaced since it was opened. Takes 2 µs.

        Data written to such a file would be lost with the process.
        """
        if self._identity() != self._opened:
            raise LedgerUnavailable(
                f"the ledger's file {self._path} was deleted or replaced while it was open: nothing more is written to "
                "it. Put the right file back, or leave it for Runhook to create, and restart this process"
            )

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path)  # noqa: PTH116 - Path.stat takes three times as long
        except OSError:
            return None
        return found.st_dev, found.st_ino


def make(url: sa.URL, wait: float, begin: str) -> sa.Engine:
    """Return an engine whose transactions start with `begin`. `wait`: maximum seconds for a connection."""
    engine = sa.create_engine(url, connect_args={"timeout": min(5.0, wait)}, pool_timeout=wait)

    @sa_event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions automatically
        connection.execute("PRAGMA synchronous=FULL").close()
        (level,) = connection.execute("PRAGMA synchronous").fetchone()
        if level < _FULL:
            raise sqlite3.OperationalError(f"PRAGMA synchronous stays {level}, but must be FULL")

    @sa_event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
