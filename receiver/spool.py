"""The spool: a local store that takes events while Redis is away, each of them on disk before `append` returns.

Each process has a directory of its own in it, a lane, and holds a lock there as long as it lives. A lane whose lock
is free belonged to a process that is gone: whoever finds it adopts it and drains it. So several receivers can share a
data directory, and kill -9 leaves nothing behind that the next one does not find.

    spool/lock                     held for a moment by whoever makes or adopts a lane
    spool/<lane>/lock              held by the lane's owner
    spool/<lane>/00000001.seg      events, in order; see segment.py

Used by one thread at a time; it knows neither Redis nor the event loop.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from receiver.errors import NotStarted, RunhookError
from receiver.event import Event
from receiver.segment import Segment, frame, sync_directory

SEGMENT_BYTES: Final = 8 << 20
"""Size at which the next segment is begun."""
_LOOK_EVERY: Final = 1.0  # seconds between two looks at what other processes keep in the spool

log = logging.getLogger("runhook.spool")


class SpoolFull(RunhookError):
    """The spool takes no more: its size, or the reserve of free disk space, is reached."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The oldest events of the spool, and what `done` needs to take them out."""

    events: tuple[Event, ...]
    segment: Segment | None = None
    offset: int = 0
    frames: int = 0


class _Lane:
    """One directory of segments, and the lock that makes it ours."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.segments: list[Segment] = []
        self._lock = lock

    def begin_segment(self) -> Segment:
        last = int(self.segments[-1].path.stem) if self.segments else 0
        segment = Segment.create(self.path / f"{last + 1:08d}.seg")
        self.segments.append(segment)
        return segment

    def close(self) -> None:
        for segment in self.segments:
            segment.close()
        os.close(self._lock)

    def remove(self) -> None:
        """Delete an empty lane; one in which something was set aside stays, for a person to look at."""
        with suppress(OSError):
            (self.path / "lock").unlink()
            self.path.rmdir()
        self.close()


class Spool:
    """The spool of this process. `directory` is made if need be.

    `max_bytes`: most bytes in the whole spool, other processes' lanes included.
    `reserve_bytes`: free disk space that is left alone.
    """

    def __init__(self, directory: Path, max_bytes: int, reserve_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._reserve_bytes = reserve_bytes
        self._own: _Lane | None = None
        self._adopted: list[_Lane] = []
        self._others_bytes = 0
        self._looked_at = float("-inf")
        self.events = 0
        """How many events wait in this process's lane and those it adopted. Any thread may read it."""
        self.bytes = 0
        """How many bytes those lanes take up. Any thread may read it."""

    def open(self) -> None:
        """Make this process's lane and adopt what earlier processes left. Raises NotStarted."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with self._door():
                path = self._directory / f"{time.time_ns():020d}-{os.getpid()}"
                path.mkdir(mode=0o700)
                lock = _lock(path / "lock")
                assert lock is not None, "a lane that was made just now is locked"
                self._own = _Lane(path, lock)
            sync_directory(self._directory)
        except OSError as error:
            raise NotStarted(f"can't use the spool {self._directory}: {error.strerror}; set RUNHOOK_DATA") from None
        self.adopt()

    def adopt(self) -> int:
        """Take over the lanes of processes that are gone; how many events they hold. What can't be read is told."""
        found = 0
        try:
            with self._door():
                for path in sorted(self._directory.iterdir()):
                    if path.is_dir() and not self._is_ours(path) and (path / "lock").exists():
                        found += self._adopt(path)
        except OSError as error:
            log.error("spool.unreadable directory=%s error=%s", self._directory, error.strerror)
        return found

    def _is_ours(self, path: Path) -> bool:
        return any(lane.path == path for lane in self._lanes())

    def _adopt(self, path: Path) -> int:
        try:
            lock = _lock(path / "lock")
        except FileNotFoundError:  # its owner has removed it just now
            return 0
        if lock is None:
            return 0
        lane = _Lane(path, lock)
        for name in sorted(path.glob("*.seg")):
            lane.segments.append(Segment.open(name))
        events = sum(segment.events for segment in lane.segments)
        if events:
            log.warning("spool.adopted lane=%s events=%d", path.name, events)
        self._adopted.append(lane)
        self._tidy()
        return events

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
        """Write something and have it on disk, as a proof. Raises SpoolFull or OSError."""
        assert self._own is not None, "open the spool first"
        self._check_room(0)
        handle = os.open(self._own.path / "lock", os.O_WRONLY)
        try:
            os.pwrite(handle, b"%d" % time.time_ns(), 0)
            os.fdatasync(handle)
        finally:
            os.close(handle)

    def _check_room(self, size: int) -> None:
        if self.bytes + self._others() + size > self._max_bytes:
            raise SpoolFull("the spool has reached spool.max_bytes")
        if self.free() < size:
            raise SpoolFull("free disk space is under spool.reserve_bytes")

    def peek(self, count: int = 256, size: int = 4 << 20) -> Batch:
        """The oldest events: up to `count`, up to about `size` bytes, at least one if there is one. Raises OSError."""
        while True:
            segment = self._oldest()
            if segment is None:
                return Batch(())
            events, offset, frames = segment.read(count, size)
            if events:
                return Batch(tuple(events), segment, offset, frames)
            # Only damage is left of it.
            segment.advance(segment.end, segment.events)
            self._tidy()

    def done(self, batch: Batch) -> None:
        """The events of `batch` are safe elsewhere: take them out. Raises OSError."""
        if batch.segment is not None:
            batch.segment.advance(batch.offset, batch.frames)
            self._tidy()

    def _oldest(self) -> Segment | None:
        return next((segment for lane in self._lanes() for segment in lane.segments if not segment.empty), None)

    def _tidy(self) -> None:
        """Delete drained segments and adopted lanes without any."""
        for lane in self._lanes():
            for segment in [each for each in lane.segments if each.empty]:
                lane.segments.remove(segment)
                if segment.damaged:
                    log.error("spool.damaged file=%s frames=%d: set aside", segment.path, segment.damaged)
                segment.remove()
        for lane in [each for each in self._adopted if not each.segments]:
            self._adopted.remove(lane)
            lane.remove()
        self._count()

    def _lanes(self) -> Iterator[_Lane]:
        """Adopted lanes first, the oldest first: they were filled before ours was made."""
        yield from self._adopted
        if self._own is not None:
            yield self._own

    def _count(self) -> None:
        segments = [segment for lane in self._lanes() for segment in lane.segments]
        self.events = sum(segment.events for segment in segments)
        self.bytes = sum(segment.end for segment in segments)

    def free(self) -> int:
        """Free bytes on the spool's disk beyond the reserve; less than 0 when the reserve is eaten into."""
        return free_bytes(self._directory) - self._reserve_bytes

    def _others(self) -> int:
        """Bytes in the lanes of other processes that live, as of a moment ago."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_EVERY:
            self._looked_at = now
            ours = {lane.path for lane in self._lanes()}
            files = [file for path in self._directory.iterdir() if path not in ours for file in path.glob("*.*")]
            self._others_bytes = sum(_size(file) for file in files)
        return self._others_bytes

    def close(self) -> None:
        """Let go. What is left in the lanes is adopted by the next process."""
        for lane in self._adopted:
            lane.close()
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
    def _door(self) -> Iterator[None]:
        """One at a time may make or adopt lanes, or a new one could be adopted before its owner has locked it."""
        handle = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def free_bytes(path: Path) -> int:
    """Bytes that this user can still write on the disk of `path`. Raises OSError."""
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _lock(path: Path) -> int | None:
    """A handle that holds the lock file `path`, or None when another process does."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
