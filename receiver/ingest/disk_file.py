"""A table in one SQLite file on the receiver's own disk, whose rows are there after a power cut.

With `synchronous=FULL`, SQLite syncs each transaction before it ends. A transaction succeeds only if the open file is
still the one in the directory: what is written to a deleted file is gone with the process. The rows of a file that was
deleted while it was open are copied into a new one. A damaged file is renamed, and a new one begun.

    <directory>/<name>.db              the table; beside it, SQLite's -wal and -shm
    <directory>/<name>-<time>.damaged  a file that SQLite can't read; `sqlite3 FILE .recover` saves what there is
    <directory>/lock                   held, shared, by each process that has the file open

One thread at a time uses it. Several processes may have the same file open.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from handlers.support.private_file import make_private_file, make_private_folder, sync_folder

_BUSY: Final = 2.0  # seconds that a transaction waits for one of another process
_WAL_LIMIT: Final = 8 << 20
_SQL: Final = ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", f"PRAGMA journal_size_limit={_WAL_LIMIT}")
_PROOF: Final = "PRAGMA user_version=1"  # writes a page, each time

log = logging.getLogger("runhook.ingest")


class DiskFile:
    """The file `directory`/`name`.db with one table.

    `columns`: their definitions. Before them is `id`, which counts up; rows with a negative one are not counted.
    """

    def __init__(self, directory: Path, name: str, columns: tuple[str, ...]) -> None:
        self.directory = directory
        self.path = directory / f"{name}.db"
        self.table = name
        self._columns = columns
        self._connection: sqlite3.Connection | None = None
        self._identity: list[tuple[int, int]] = []
        self._lock = -1

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Run a transaction, which is on disk once the block has ended. Raises OSError; nothing is written then."""
        with self._translated():
            connection = self._opened()
            connection.execute("BEGIN IMMEDIATE")
            with connection:  # commits, or rolls back
                yield connection
        if not self._is_there():
            raise FileNotFoundError(errno.ENOENT, "the file was deleted", str(self.path))

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Read. Raises OSError."""
        with self._translated():
            yield self._opened()

    @contextmanager
    def look(self) -> Iterator[sqlite3.Connection | None]:
        """Open the file for one read without creating it; None if it is missing. Raises OSError."""
        if not self.path.exists():
            yield None
            return
        try:
            with closing(
                sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY)
            ) as connection:
                exists = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (self.table,)).fetchone()
                yield connection if exists else None
        except sqlite3.Error as error:
            raise OSError(errno.EIO, str(error), str(self.path)) from None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # the disk's or the moment's fault
            full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(self.path)) from None
        except sqlite3.DatabaseError as error:
            self._set_aside(error)
            raise OSError(errno.EIO, f"{error}; it was set aside", str(self.path)) from None

    def _set_aside(self, error: sqlite3.Error) -> None:
        self.close()
        aside = self.path.with_name(f"{self.path.stem}-{time.time_ns()}.damaged")
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        log.error("%s.damaged file=%s error=%s: set aside", self.table, aside, error)

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None and not self._is_there():
            log.error("%s.deleted file=%s: it is made again", self.table, self.path)
            self._save(self._connection)
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def _save(self, connection: sqlite3.Connection) -> None:
        """Put a copy of a file that was deleted in its place. SQLite's own -wal goes when it closes the file."""
        make_private_folder(self.directory)
        copy = self.path.with_name(f"{self.table}-{time.time_ns()}.copy")
        connection.execute("VACUUM INTO ?", (str(copy),))
        with copy.open("rb") as file:
            os.fchmod(file.fileno(), 0o600)
            os.fsync(file.fileno())
        connection.close()
        self._connection = None
        if not self.path.exists() or self.path.stat().st_ino == self._identity[0][1]:
            for suffix in ("-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            copy.rename(self.path)
            return
        self._connection = self._open()  # another process has made it again
        names = ", ".join(each.split()[0] for each in self._columns)
        self._connection.execute("ATTACH ? AS copy", (str(copy),))
        self._connection.execute(f"INSERT INTO {self.table} ({names}) SELECT {names} FROM copy.{self.table}")  # noqa: S608
        self._connection.execute("DETACH copy")
        copy.unlink()

    def _open(self) -> sqlite3.Connection:
        make_private_file(self.path)
        self._unlock()
        self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with suppress(BlockingIOError):  # one that looks whether anyone holds it has it for a moment
            fcntl.flock(self._lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        connection = sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        try:
            for statement in _SQL:
                connection.execute(statement)
            defined = ", ".join(("id INTEGER PRIMARY KEY AUTOINCREMENT", *self._columns))
            connection.execute(f"CREATE TABLE IF NOT EXISTS {self.table} ({defined})")
            connection.execute(_PROOF)  # so the -wal is there
            sync_folder(self.directory)
            self._identity = self._identities()
        except BaseException:
            connection.close()
            raise
        return connection

    def _identities(self) -> list[tuple[int, int]]:
        stats = [self.path.stat(), Path(f"{self.path}-wal").stat()]
        return [(each.st_dev, each.st_ino) for each in stats]

    def _is_there(self) -> bool:
        try:
            return self._identities() == self._identity
        except OSError:
            return False

    def prove(self) -> None:
        """Make a durable write. Raises OSError."""
        with self.write() as connection:
            connection.execute(_PROOF)

    def extent(self, connection: sqlite3.Connection) -> tuple[int, int]:
        """Return (rows, bytes): rows by the ids of the first and the last one, bytes by the pages in use."""
        first, last = connection.execute(f"SELECT min(id), max(id) FROM {self.table} WHERE id > 0").fetchone()  # noqa: S608
        if first is None:
            return 0, 0
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return last - first + 1, (pages - free) * size

    def shrink(self, connection: sqlite3.Connection) -> None:
        """Give the disk back what deleted rows took."""
        if connection.execute("PRAGMA freelist_count").fetchone()[0] > 256:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1
