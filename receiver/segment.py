"""One file of the spool: events one after another, each framed by its length and checksum. Knows no other file.

    header   8 bytes "RHSPOOL1", 8 bytes: how far the file has been drained (an offset, little-endian)
    frame    4 bytes length, 4 bytes CRC-32, then so many bytes: a line of JSON about the event, and its body

What a power cut leaves at the end is a torn frame: it was never acked, and reading ends before it. The drained offset
is written without a sync: losing it only moves events a second time, and their ids tell.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from receiver.event import Event

MAGIC: Final = b"RHSPOOL1"
HEADER: Final = 16
_FRAME: Final = struct.Struct("<II")
_OFFSET: Final = struct.Struct("<Q")


def frame(event: Event) -> bytes:
    """`event` as it stands in a segment."""
    about = {"id": event.id, "source": event.source, "at": event.received_at, "via": event.via}
    if event.submission_id:
        about["sub"] = event.submission_id
    payload = json.dumps(about).encode() + b"\n" + event.body
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _event(payload: bytes) -> Event:
    line, _, body = payload.partition(b"\n")
    about = json.loads(line)
    return Event(about["id"], about["source"], body, about["at"], about["via"], about.get("sub", ""))


class Segment:
    """A segment file. Make it with `create` or `open`; it is used by one thread at a time.

    `end`: where the good frames end, which is where the next one goes. `drained`: how far they have been moved on.
    `events`: frames between the two. `damaged`: frames with a wrong checksum that were met while reading.
    """

    def __init__(self, path: Path, handle: int, end: int, drained: int, events: int) -> None:
        self.path = path
        self.end = end
        self.drained = drained
        self.events = events
        self.damaged = 0
        self.sealed = False
        self._handle = handle

    @classmethod
    def create(cls, path: Path) -> Self:
        """A new file, its name on disk as well. Raises OSError."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.pwrite(handle, MAGIC + _OFFSET.pack(HEADER), 0)
        os.fsync(handle)
        sync_directory(path.parent)
        return cls(path, handle, HEADER, HEADER, 0)

    @classmethod
    def open(cls, path: Path) -> Self:
        """A file that an earlier process left: nothing is added to it. Raises OSError.

        A file that is no segment counts as an empty one.
        """
        handle = os.open(path, os.O_RDWR)
        header = os.pread(handle, HEADER, 0)
        good = len(header) == HEADER and header.startswith(MAGIC)
        drained = _OFFSET.unpack(header[8:])[0] if good else HEADER
        segment = cls(path, handle, HEADER, max(HEADER, drained), 0)
        segment.sealed = True
        if good:
            segment._find_end()
        return segment

    def _find_end(self) -> None:
        """Walk over the frames from the drained offset, by their lengths alone."""
        size = os.fstat(self._handle).st_size
        at = self.drained
        while at + _FRAME.size <= size:
            length, _ = _FRAME.unpack(os.pread(self._handle, _FRAME.size, at))
            if length == 0 or at + _FRAME.size + length > size:
                break
            at += _FRAME.size + length
            self.events += 1
        self.end = max(at, self.drained)

    def append(self, frames: Sequence[bytes]) -> None:
        """Add frames and return when they are on disk. Raises OSError; none of them counts as kept then.

        After an error the segment is sealed: what the disk has of it past `end` is not known.
        """
        data = memoryview(b"".join(frames))
        at = self.end
        try:
            while data:
                written = os.pwrite(self._handle, data, at)
                at += written
                data = data[written:]
            os.fdatasync(self._handle)
        except OSError:
            self.sealed = True
            with suppress(OSError):
                os.ftruncate(self._handle, self.end)
            raise
        self.end = at
        self.events += len(frames)

    def read(self, count: int, size: int) -> tuple[list[Event], int, int]:
        """Up to `count` events or about `size` bytes from the drained offset on, at least one if there is one.

        Returns the events, the offset that `advance` must be given once they are safe elsewhere, and how many frames
        that is. A frame with a wrong checksum is counted as damaged and passed over. Raises OSError.
        """
        events: list[Event] = []
        at, frames = self.drained, 0
        while len(events) < count and at < self.end and (not events or at - self.drained < size):
            length, checksum = _FRAME.unpack(os.pread(self._handle, _FRAME.size, at))
            payload = os.pread(self._handle, length, at + _FRAME.size)
            at += _FRAME.size + length
            frames += 1
            try:
                if zlib.crc32(payload) != checksum:
                    raise ValueError
                events.append(_event(payload))
            except (ValueError, KeyError, TypeError):
                self.damaged += 1
        return events, at, frames

    def advance(self, offset: int, frames: int) -> None:
        """Everything before `offset`, `frames` frames, is safe elsewhere. Raises OSError."""
        self.drained = offset
        self.events = max(0, self.events - frames)
        os.pwrite(self._handle, _OFFSET.pack(offset), len(MAGIC))

    @property
    def empty(self) -> bool:
        """Whether all of it has been moved on."""
        return self.drained >= self.end

    def remove(self) -> None:
        """Delete the file; one with damaged frames is set aside under another name instead. Raises OSError."""
        self.close()
        if self.damaged:
            self.path.rename(self.path.with_name(f"{self.path.stem}-{time.time_ns()}.damaged"))
        else:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


def sync_directory(path: Path) -> None:
    """Have the names in `path` on disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
