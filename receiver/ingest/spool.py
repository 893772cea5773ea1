"""The spool: a table on the receiver's own disk that takes events while Redis is unavailable. Each is on disk before
`append` returns.

Several receivers may share it: each appends and drains. What two of them send is one event, for it has one id. What a
killed receiver leaves is drained by the next one. Used by one thread at a time; it knows neither Redis nor the event
loop.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from handlers.support.file_lock import is_locked
from handlers.support.private_file import make_private_folder
from receiver.domain.event import Event
from receiver.domain.frame import begins_with_id, frame_of, read_frame, read_head
from receiver.errors import NotStarted, RunhookError
from receiver.ingest.disk_file import DiskFile

_NAME: Final = "events"

log = logging.getLogger("runhook.spool")


class SpoolFull(RunhookError):
    """The spool is full: it has reached its maximum size, or the reserve of free disk space."""


class Batch(NamedTuple):
    """The oldest events of the spool. `last`: the id of the last row that they were read from. `file`: the open file
    with this row; the ids of a new file start at 1 again."""

    events: tuple[Event, ...]
    last: int = 0
    file: sqlite3.Connection | None = None


class Spool:
    """The spool in `directory`, which is made if need be.

    `max_bytes`: most bytes in it. `reserve_bytes`: free disk space that is kept.
    """

    def __init__(self, directory: Path, max_bytes: int, reserve_bytes: int) -> None:
        self.directory = directory
        self._max_bytes = max_bytes
        self._reserve_bytes = reserve_bytes
        self._file = DiskFile(directory, _NAME, ("frame BLOB NOT NULL",))
        # Events that wait, and the bytes that they take. Any thread may read them.
        self.events = 0
        self.bytes = 0

    def open(self) -> None:
        """Open the spool, with what earlier processes left. Raises NotStarted."""
        try:
            make_private_folder(self.directory)
            self.count()
        except OSError as error:
            raise NotStarted(f"can't use the spool {self.directory}: {error.strerror}; set RUNHOOK_DATA") from None

    def count(self) -> None:
        """Count what waits: other processes append and drain as well. Raises OSError."""
        with self._file.read() as connection:
            self._count(connection)

    def _count(self, connection: sqlite3.Connection) -> None:
        self.events, self.bytes = self._file.extent(connection)

    def append(self, events: Sequence[Event]) -> None:
        """Add `events` and return when they are on disk. Raises SpoolFull or OSError; none of them is kept then."""
        frames = [(frame_of(event),) for event in events]
        self._check_room(sum(len(frame) for (frame,) in frames))
        try:
            self._append(frames)
        except FileNotFoundError:  # it was deleted just now, and is made again
            self._append(frames)

    def _append(self, frames: Sequence[tuple[bytes]]) -> None:
        with self._file.write() as connection:
            connection.executemany("INSERT INTO events (frame) VALUES (?)", frames)
            self._count(connection)

    def check(self) -> None:
        """Make a durable write, as a proof. Raises SpoolFull or OSError."""
        self._check_room(0)
        self._file.prove()

    def _check_room(self, size: int) -> None:
        if self.bytes + size > self._max_bytes:
            raise SpoolFull("the spool has reached spool.max_bytes")
        make_private_folder(self.directory)  # it may have been removed while no event came
        if self.free() < size:
            raise SpoolFull("free disk space is under spool.reserve_bytes")

    def peek(self, count: int = 256, size: int = 4 << 20) -> Batch:
        """Return the oldest events: up to `count`, about `size` bytes, at least one if there is one. Raises OSError.

        A row that can't be read gets a negative id, and stays for a person.
        """
        events: list[Event] = []
        damaged: list[int] = []
        taken = last = 0
        with self._file.read() as file:
            rows = file.execute("SELECT id, frame FROM events WHERE id > 0 ORDER BY id LIMIT ?", (count,))
            for row, frame in rows:
                if events and taken + len(frame) > size:
                    break
                last = row
                try:
                    events.append(read_frame(frame))
                except ValueError as error:
                    damaged.append(row)
                    log.error("spool.damaged row=%d error=%s: it stays in %s", row, error, self._file.path)
                taken += len(frame)
            rows.close()
        if damaged:
            with self._file.write() as connection:
                if connection is file:
                    connection.executemany("UPDATE events SET id = -id WHERE id = ?", [(each,) for each in damaged])
            return Batch(tuple(events), last, file) if events else self.peek(count, size)
        return Batch(tuple(events), last, file)

    def done(self, batch: Batch) -> None:
        """Remove the events of `batch`, which are safe elsewhere. Raises OSError.

        If another file has replaced theirs, nothing is removed: events of `batch` in that file are sent twice.
        """
        with self._file.write() as connection:
            if connection is batch.file:
                connection.execute("DELETE FROM events WHERE id <= ? AND id > 0", (batch.last,))
            self._count(connection)
        if not self.events:
            with self._file.read() as connection:
                self._file.shrink(connection)

    def free(self) -> int:
        """Return the free bytes on the spool's disk beyond the reserve; less than 0 when it is eaten into."""
        path = self.directory if self.directory.exists() else self.directory.parent
        return shutil.disk_usage(path).free - self._reserve_bytes

    def close(self) -> None:
        """Close the spool. What is left in it is drained by the next process."""
        self._file.close()


class SpoolUsage(NamedTuple):
    """What the spool of a machine holds. `left`: bytes that no running receiver drains. `set_aside`: damaged events
    and files that wait for a person. `events`: that wait."""

    bytes: int = 0
    left: int = 0
    set_aside: int = 0
    events: int = 0


def list_events(directory: Path) -> Iterator[Event]:
    """Yield the spooled events, oldest first, without the damaged ones. Changes nothing. Raises OSError."""
    with DiskFile(directory, _NAME, ()).look() as connection:
        rows = connection.execute("SELECT frame FROM events WHERE id > 0 ORDER BY id") if connection else ()
        for (frame,) in rows:
            with suppress(ValueError):
                yield read_frame(frame)


def find(directory: Path, beginning: str) -> tuple[str, str, float, int] | None:
    """Return the spooled event whose id begins with `beginning`: id, source, time, number of events before it; or None.

    Raises OSError.
    """
    head = begins_with_id(beginning)
    query = "SELECT id, substr(frame, 1, 2048) FROM events WHERE id > 0 AND substr(frame, 1, ?) = ?"
    with DiskFile(directory, _NAME, ()).look() as connection:
        row = connection.execute(query, (len(head), head)).fetchone() if connection is not None else None
        if connection is None or row is None or (found := read_head(row[1])) is None:
            return None
        (ahead,) = connection.execute("SELECT count(*) FROM events WHERE id > 0 AND id < ?", row[:1]).fetchone()
    return (*found, ahead)


def usage(directory: Path) -> SpoolUsage:
    """Return what the spool in `directory` holds. What can't be read counts as nothing."""
    file, aside = DiskFile(directory, _NAME, ()), len(list(directory.glob("*.damaged")))
    with suppress(OSError), file.look() as connection:
        if connection is not None:
            (damaged,) = connection.execute("SELECT count(*) FROM events WHERE id < 0").fetchone()
            events, size = file.extent(connection)
            return SpoolUsage(size, 0 if is_locked(directory / "lock") else size, aside + damaged, events)
    return SpoolUsage(set_aside=aside)


def spool_trouble(error: Exception) -> str:
    """Return why the spool refused events."""
    return f"the spool can't be written: {error.strerror}" if isinstance(error, OSError) else str(error)
