"""The spool: a local store that takes events while Redis is away, each of them on disk before `append` returns.

Each process has a directory of its own in it, a partition, and holds a lock there as long as it lives. A partition
whose lock is free belonged to a process that is gone: the next process adopts it and drains it. So several receivers
can share a data directory, and kill -9 leaves nothing behind that the next one does not find.

    spool/lock                        held for a moment by a process that makes or adopts a partition
    spool/<partition>/lock            held by the partition's owner
    spool/<partition>/00000001.seg    events, in order; see spool_segment.py

Used by one thread at a time; it knows neither Redis nor the event loop.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from handlers.support.private_file import make_private_folder, sync_folder
from receiver.domain.event import Event
from receiver.errors import NotStarted, RunhookError
from receiver.ingest.spool_segment import Segment, frame

# Size at which the next segment is begun.
SEGMENT_BYTES: Final = 8 << 20
_MEASURE_EVERY: Final = 1.0  # seconds between two measurements of what other processes keep in the spool

log = logging.getLogger("runhook.spool")


class SpoolFull(RunhookError):
    """The spool takes no more: its size, or the reserve of free disk space, is reached."""


class Batch(NamedTuple):
    """The oldest events of the spool, and what `done` needs to take them out."""

    events: tuple[Event, ...]
    segment: Segment | None = None
    offset: int = 0
    frames: int = 0


class _Partition:
    """One directory of segments, and the lock that makes it ours."""

    def __init__(self, path: Path, lock: int, unopened: Sequence[Path] = ()) -> None:
        self.path = path
        self.segments: list[Segment] = []
        self._unopened = [(each, _size(each)) for each in unopened]
        # Whether it holds a file that could not be opened.
        self.unreadable = False
        self._lock = lock
        self._begun = 0

    @property
    def whole(self) -> bool:
        """Whether all of it has been opened."""
        return not self._unopened

    @property
    def bytes(self) -> int:
        return sum(segment.end for segment in self.segments) + sum(size for _, size in self._unopened)

    def open_next(self) -> int:
        """Open the next file that an earlier process left. Returns how many events it has: 0 for one that can't be
        read, which is logged, and left for the next process."""
        path, _ = self._unopened.pop(0)
        try:
            self.segments.append(Segment.open(path))
        except OSError as error:
            log.error("spool.unreadable file=%s error=%s", path, error.strerror)
            self.unreadable = True
            return 0
        return self.segments[-1].events

    def oldest(self) -> Segment | None:
        """Return the first segment that is not empty."""
        while True:
            found = next((segment for segment in self.segments if not segment.empty), None)
            if found is not None or self.whole:
                return found
            self.open_next()

    def begin_segment(self) -> None:
        """Begin the next file. Raises OSError; the one after it has another name then."""
        self._begun += 1
        self.segments.append(Segment.create(self.path / f"{self._begun:08d}.seg"))

    def close(self) -> None:
        for segment in self.segments:
            segment.close()
        os.close(self._lock)

    def remove(self) -> None:
        """Delete an empty partition; one in which something was set aside stays, for a person to examine."""
        with suppress(OSError):
            (self.path / "lock").unlink()
            self.path.rmdir()
        self.close()


class Spool:
    """The spool of this process. `directory` is made if need be.

    `max_bytes`: most bytes in the whole spool, other processes' partitions included.
    `reserve_bytes`: free disk space that is left alone.
    """

    def __init__(self, directory: Path, max_bytes: int, reserve_bytes: int) -> None:
        self.directory = directory
        self._max_bytes = max_bytes
        self._reserve_bytes = reserve_bytes
        self._own: _Partition | None = None
        self._adopted: list[_Partition] = []
        self._others_bytes = 0
        self._measured_at = float("-inf")
        # How many events wait in this process's partition and in those it adopted, as far as they were opened, and
        # never 0 before all of that was. Any thread may read it.
        self.events = 0
        # How many bytes those partitions take up. Any thread may read it.
        self.bytes = 0

    def open(self) -> None:
        """Make this process's partition and adopt what earlier processes left. Raises NotStarted."""
        try:
            make_private_folder(self.directory)
            with self._locked():
                path = self.directory / f"{time.time_ns():020d}-{os.getpid()}"
                path.mkdir(mode=0o700)
                lock = _lock(path / "lock")
                assert lock is not None, "a partition that was made just now is locked"
                self._own = _Partition(path, lock)
            sync_folder(self.directory)
        except OSError as error:
            raise NotStarted(f"can't use the spool {self.directory}: {error.strerror}; set RUNHOOK_DATA") from None
        self.adopt()

    @property
    def whole(self) -> bool:
        """Whether all that was adopted has been opened. Any thread may read it."""
        return all(partition.whole for partition in self._adopted)

    def adopt(self, most: int | None = None) -> int:
        """Adopt the partitions of processes that are gone. Returns how many events were found; logs what can't be read.

        `most`: how many files to open; the rest is opened at the next calls, or when its turn comes. To open one takes
        some 50 ms, in which nothing is appended.
        """
        found = 0
        try:
            with self._locked():
                for path in sorted(self.directory.iterdir()):
                    if path.is_dir() and not self._is_ours(path) and (path / "lock").exists():
                        self._adopt(path)
            for partition in self._adopted:
                events = 0
                while not partition.whole and (most is None or most > 0):
                    events += partition.open_next()
                    most = None if most is None else most - 1
                if events:
                    log.warning("spool.adopted partition=%s events=%d", partition.path.name, events)
                found += events
            self._tidy()
        except OSError as error:
            log.error("spool.unreadable directory=%s error=%s", self.directory, error.strerror)
        return found

    def _is_ours(self, path: Path) -> bool:
        return any(partition.path == path for partition in self._partitions())

    def _adopt(self, path: Path) -> None:
        try:
            lock = _lock(path / "lock")
        except FileNotFoundError:  # its owner has removed it just now
            return
        if lock is not None:
            self._adopted.append(_Partition(path, lock, sorted(path.glob("*.seg"))))

    def append(self, events: Sequence[Event]) -> None:
        """Add `events` and return when they are on disk. Raises SpoolFull or OSError; none of them is kept then."""
        assert self._own is not None, "open the spool first"
        frames = [frame(event) for event in events]
        self._check_room(sum(map(len, frames)))
        segments = self._own.segments
        if not segments or segments[-1].sealed or segments[-1].end >= SEGMENT_BYTES:
            self._own.begin_segment()
        segments[-1].append(frames)
        self._count()

    def check(self) -> None:
        """Make a durable write, as a proof. Raises SpoolFull or OSError."""
        assert self._own is not None, "open the spool first"
        self._check_room(0)
        handle = os.open(self._own.path / "lock", os.O_WRONLY)
        try:
            os.pwrite(handle, b"%d" % time.time_ns(), 0)
            os.fdatasync(handle)
        finally:
            os.close(handle)

    def _check_room(self, size: int) -> None:
        if self.bytes + self.others() + size > self._max_bytes:
            raise SpoolFull("the spool has reached spool.max_bytes")
        if self.free() < size:
            raise SpoolFull("free disk space is under spool.reserve_bytes")

    def peek(self, count: int = 256, size: int = 4 << 20) -> Batch:
        """Return the oldest events: up to `count`, about `size` bytes, at least one if there is one. Raises OSError."""
        while True:
            segment = self._oldest()
            if segment is None:
                self._tidy()
                return Batch(())
            events, offset, frames = segment.read(count, size)
            if events:
                return Batch(tuple(events), segment, offset, frames)
            # Only damage is left of it.
            segment.advance(segment.end, segment.events)
            self._tidy()

    def done(self, batch: Batch) -> None:
        """Remove the events of `batch`, which are safe elsewhere. Raises OSError."""
        if batch.segment is not None:
            batch.segment.advance(batch.offset, batch.frames)
            self._tidy()

    def _oldest(self) -> Segment | None:
        return next((segment for partition in self._partitions() if (segment := partition.oldest()) is not None), None)

    def _tidy(self) -> None:
        """Delete drained segments and adopted partitions without any."""
        for partition in self._partitions():
            for segment in [each for each in partition.segments if each.empty]:
                partition.segments.remove(segment)
                if segment.damaged:
                    log.error("spool.damaged file=%s frames=%d: set aside", segment.path, segment.damaged)
                segment.remove()
        for partition in [each for each in self._adopted if each.whole and not each.segments and not each.unreadable]:
            self._adopted.remove(partition)
            partition.remove()
        self._count()

    def _partitions(self) -> Iterator[_Partition]:
        """Adopted partitions first, the oldest first: they were filled before ours was made."""
        yield from self._adopted
        if self._own is not None:
            yield self._own

    def _count(self) -> None:
        events = sum(segment.events for partition in self._partitions() for segment in partition.segments)
        self.events = max(events, 0 if self.whole else 1)
        self.bytes = sum(partition.bytes for partition in self._partitions())

    def free(self) -> int:
        """Free bytes on the spool's disk beyond the reserve; less than 0 when the reserve is eaten into."""
        return free_bytes(self.directory) - self._reserve_bytes

    def others(self) -> int:
        """Return the bytes in the partitions of other live processes, as of a moment ago."""
        now = time.monotonic()
        if now - self._measured_at >= _MEASURE_EVERY:
            self._measured_at = now
            ours = {partition.path for partition in self._partitions()}
            files = [file for path in self.directory.iterdir() if path not in ours for file in path.glob("*.*")]
            self._others_bytes = sum(_size(file) for file in files)
        return self._others_bytes

    def close(self) -> None:
        """Close the partitions. What is left in them is adopted by the next process."""
        for partition in self._adopted:
            partition.close()
        self._adopted.clear()
        own, self._own = self._own, None
        if own is not None:
            if any(not segment.empty for segment in own.segments):
                own.close()
                return
            for segment in own.segments:
                segment.remove()
            own.remove()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the making and adopting of partitions: a new one must not be adopted before its owner has locked it."""
        handle = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


class SpoolUsage(NamedTuple):
    """What the spool of a machine takes up. `left`: bytes of receivers that are gone, while none is there to take them
    in; a part of them may have been drained. `set_aside`: damaged files that wait for a person."""

    bytes: int = 0
    left: int = 0
    set_aside: int = 0


def usage(directory: Path) -> SpoolUsage:
    """Return what the spool in `directory` takes up. For those who only look: what can't be read counts as nothing."""
    total, left, aside, owned = 0, 0, 0, False
    with suppress(OSError):
        for path in [each for each in directory.iterdir() if each.is_dir()]:
            found = sum(_size(file) for file in path.glob("*.seg"))
            total, aside = total + found, aside + len(list(path.glob("*.damaged")))
            if _is_locked(path / "lock"):
                owned = True
            else:
                left += found
    return SpoolUsage(total, 0 if owned else left, aside)


def _is_locked(path: Path) -> bool:
    """Whether a process holds the lock. It is taken for a moment to find out: who wants it then comes again."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def free_bytes(path: Path) -> int:
    """Return the bytes that this user can still write on the disk of `path`. Raises OSError."""
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _lock(path: Path) -> int | None:
    """Lock the file `path`. Returns a handle that holds it, or None when another process does."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def spool_trouble(error: Exception) -> str:
    """Return in words why the spool took nothing."""
    return f"the spool can't be written: {error.strerror}" if isinstance(error, OSError) else str(error)
