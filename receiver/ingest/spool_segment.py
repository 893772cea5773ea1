"""One file of the spool: events one after another, each framed by its length and checksum. Knows no other file.

    header   8 bytes "RHSPOOL1", 8 bytes: how far the file has been drained (an offset, little-endian)
    frame    4 bytes length, 4 bytes CRC-32, then so many bytes: a line of JSON about the event, and its body

What a power cut leaves at the end is a torn frame: it was never acked, and reading ends before it. Damage before that
is passed over to the next frame whose checksum is right, and the file is set aside. The drained offset is written
without a sync: losing it only moves events a second time, and their ids show that.
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

from handlers.support.private_file import sync_folder
from receiver.domain.event import Event
from receiver.domain.inbox_entry import is_sound

MAGIC: Final = b"RHSPOOL1"
HEADER: Final = 16
_FRAME: Final = struct.Struct("<II")
_OFFSET: Final = struct.Struct("<Q")
# How every payload begins. A header before it holds bytes that no JSON has, so no body can look like a frame.
_PAYLOAD_START: Final = b'{"id": "'


def frame(event: Event) -> bytes:
    """Return the frame of `event`."""
    about = {"id": event.id, "source": event.source, "at": event.received_at, "via": event.via}
    if event.submission_id:
        about["sub"] = event.submission_id
    payload = json.dumps(about).encode() + b"\n" + event.body
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _event(payload: bytes) -> Event:
    line, _, body = payload.partition(b"\n")
    about = json.loads(line)
    event = Event(about["id"], about["source"], body, about["at"], about["via"], about.get("sub", ""))
    if not is_sound(event):
        raise ValueError("no event of ours")
    return event


class Segment:
    """A segment file. Make it with `create` or `open`; it is used by one thread at a time.

    `end`: where the good frames end, which is where the next one goes. `drained`: how far they have been moved on.
    `events`: frames between the two, and never 0 before all of it was read.
    """

    def __init__(self, path: Path, handle: int, end: int, drained: int, events: int) -> None:
        self.path = path
        self.end = end
        self.drained = drained
        self.events = events
        self._damage: set[int] = set()
        self.sealed = False
        self._handle = handle

    @classmethod
    def create(cls, path: Path) -> Self:
        """Create a file, its name on disk as well. Raises OSError; it is gone then, if the disk lets it go."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.pwrite(handle, MAGIC + _OFFSET.pack(HEADER), 0)
            os.fsync(handle)
            sync_folder(path.parent)
        except OSError:
            os.close(handle)
            with suppress(OSError):
                path.unlink()
            raise
        return cls(path, handle, HEADER, HEADER, 0)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a file that an earlier process left: nothing is added to it. Raises OSError.

        What is readable in a damaged one is found all the same.
        """
        handle = os.open(path, os.O_RDWR)
        header = os.pread(handle, HEADER, 0)
        size = os.fstat(handle).st_size
        good = len(header) == HEADER and header.startswith(MAGIC)
        drained = _OFFSET.unpack(header[8:])[0] if good else HEADER
        good = good and HEADER <= drained <= size
        segment = cls(path, handle, HEADER, drained if good else HEADER, 0)
        segment.sealed = True
        if not good and size:
            segment._damage.add(0)
        segment._find_end(size)
        return segment

    @property
    def damaged(self) -> int:
        """How many places were met that could not be read, or only with luck."""
        return len(self._damage)

    def _find_end(self, size: int) -> None:
        """Walk over the frames from the drained offset: by their lengths alone, unless these lead nowhere."""
        at, frames = self.drained, 0
        while at + _FRAME.size <= size:
            length, _ = _FRAME.unpack(os.pread(self._handle, _FRAME.size, at))
            if length == 0 or at + _FRAME.size + length > size:
                break
            at += _FRAME.size + length
            frames += 1
        if at >= size or not os.pread(self._handle, size - at, at).strip(b"\0"):
            self.end, self.events = max(at, self.drained), frames
        else:
            self._search_end(size)

    def _search_end(self, size: int) -> None:
        """Do as `_find_end`, by the checksums."""
        self.end = size
        at = good = self.drained
        while at < size:
            payload, after = self._at(at)
            if payload is not None:
                self.events += 1
            if payload is not None or self._is_whole(at):  # else it is torn, or a good one follows
                good = after
            at = after
        self.end = good
        self.events = max(self.events, 0 if self.empty else 1)
        self._damage = {place for place in self._damage if place < good}

    def _is_whole(self, at: int) -> bool:
        """Whether all bytes of the frame at `at` are there, right or wrong."""
        head = os.pread(self._handle, _FRAME.size, at)
        return len(head) == _FRAME.size and 0 < _FRAME.unpack(head)[0] <= self.end - at - _FRAME.size

    def _at(self, at: int) -> tuple[bytes | None, int]:
        """Return the payload of the frame at `at`, None when it is lost, and where the next one begins."""
        if self._is_whole(at):
            length, checksum = _FRAME.unpack(os.pread(self._handle, _FRAME.size, at))
            payload = os.pread(self._handle, length, at + _FRAME.size)
            if zlib.crc32(payload) == checksum:
                return payload, at + _FRAME.size + length
        self._damage.add(at)
        rest = os.pread(self._handle, self.end - at, at)
        after = _next_frame(rest)
        payload = rest[_FRAME.size : after]
        # When only the length is wrong, the checksum shows what it should have been.
        right = payload and zlib.crc32(payload) == _FRAME.unpack_from(rest)[1]
        return payload if right else None, at + after

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
        """Read up to `count` events or about `size` bytes from the drained offset, at least one if there is one.

        Returns the events, the offset that `advance` must be given once they are safe elsewhere, and how many frames
        that is. What is damaged is passed over. Raises OSError.
        """
        events: list[Event] = []
        at, frames = self.drained, 0
        while len(events) < count and at < self.end and (not events or at - self.drained < size):
            place = at
            payload, at = self._at(at)
            if payload is None:
                continue
            frames += 1
            try:
                events.append(_event(payload))
            except (ValueError, KeyError, TypeError):
                self._damage.add(place)
        return events, at, frames

    def advance(self, offset: int, frames: int) -> None:
        """Everything before `offset`, `frames` frames, is safe elsewhere. Raises OSError."""
        self.drained = offset
        self.events = max(0 if self.empty else 1, self.events - frames)
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
        """Close the file."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


def _next_frame(rest: bytes) -> int:
    """Return where the next good frame begins in `rest`, after a damaged one; its end when there is none."""
    begin = _FRAME.size
    while (begin := rest.find(_PAYLOAD_START, begin + 1)) >= 0:
        start = begin - _FRAME.size
        length, checksum = _FRAME.unpack_from(rest, start)
        if 0 < length <= len(rest) - begin and zlib.crc32(rest[begin : begin + length]) == checksum:
            return start
    return len(rest)
