"""Which worker processes are alive: each holds the lock of a file in the data directory for as long as it runs.

A file whose lock is free belonged to a process that is gone, however it went: the kernel frees the lock when it has
ended, and never before. So a dead worker is known at once to all that share its data directory and its kernel, and
what it held need not lapse by time. A process that has no file, or runs on another machine, is never called dead.

    workers/<name>     the process's queue and its kernel, one line each; below them its `StartedJournal`

It knows neither the ledger nor Redis.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from handlers.support.private_file import make_private_folder

_STALE_AFTER: Final = 86400.0  # seconds after which a file from another kernel is removed
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_JOURNAL_MARK: Final = "begun"
_ENTRY_BYTES: Final = 64


def boot_id() -> str:
    """Return what identifies this machine since its start: file locks mean something only within it.

    Containers on one machine share it, so one that takes another's place on the same volume finds what that one held.
    """
    try:
        return _BOOT.read_text().strip()
    except OSError:  # not Linux
        return socket.gethostname()


class LivenessLock:
    """The locked file of this process. `directory`: the data directory. Raises OSError when it can't be made there."""

    def __init__(self, directory: Path, name: str, queue: str) -> None:
        self._path = _folder(directory) / name
        make_private_folder(self._path.parent)
        # Locked under another name first: nobody may find it unlocked while its process starts.
        draft = self._path.with_name(f".{name}")
        self._handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(self._handle, f"{queue}\n{boot_id()}\n".encode())
            draft.rename(self._path)
        except OSError:
            draft.unlink(missing_ok=True)
            os.close(self._handle)
            raise

    def end(self) -> None:
        """Remove the file: this process holds nothing any more."""
        _remove(self._path)
        self._unlock()

    def _unlock(self) -> None:
        """Release the lock, as the process's death does."""
        os.close(self._handle)


class StartedJournal:
    """Which of its claimed items a process has started and not settled, written to its lock file for those who find it
    dead.

    Nothing waits for a disk: what is written survives a kill, and after a crash of the machine it is not believed. Any
    thread may call it, until the process ends. An item keeps its place until it is settled, however many start since.
    `places`: how many there are from the beginning; where more are needed the file grows. Where there is no lock file,
    nothing is written, nor known.
    """

    def __init__(self, directory: Path, name: str, places: int) -> None:
        self._path = _folder(directory) / name
        self._lock = threading.Lock()
        self._free, self._places, self._made = deque(range(places)), dict[str, int](), places
        self._handle, self._start = -1, 0
        with suppress(OSError):
            handle = os.open(self._path, os.O_RDWR)
            os.lseek(handle, 0, os.SEEK_END)
            os.write(handle, f"{_JOURNAL_MARK}\n".encode())
            self._handle, self._start = handle, os.fstat(handle).st_size  # from now on the journal is believed
            os.write(handle, _entries([""]) * places)

    def add(self, items: Sequence[str]) -> None:
        """Record that `items`, each up to 63 ASCII characters, start now."""
        if self._handle < 0:
            return
        with self._lock:
            if not self._places.keys().isdisjoint(items):  # they start again, and are known to have started
                items = [each for each in items if each not in self._places]
            places = [self._free.popleft() for _ in items[: len(self._free)]]
            if more := len(items) - len(places):
                places += range(self._made, self._made + more)
                self._made += more
            self._places.update(zip(items, places, strict=True))
        try:
            for first, part in _joined(places, items):
                entries = _entries(part)
                if os.pwrite(self._handle, entries, self._start + first * _ENTRY_BYTES) < len(entries):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            # A journal without these entries must not be believed.
            _remove(self._path)

    def settled(self, items: Iterable[str]) -> None:
        """Take note that nobody will ask for these any more: others get their places, some day."""
        with self._lock:
            found = [self._places.pop(each, None) for each in items]
            self._free.extend([each for each in found if each is not None])


def _joined(places: Sequence[int], items: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield items whose places follow one another, as most do, with the first place: a call of the kernel writes
    them."""
    if places and places[-1] - places[0] == len(places) - 1 and places == list(range(places[0], places[-1] + 1)):
        yield places[0], items  # this tells most of them in a sixth of the time
        return
    begin = 0
    for end in range(1, len(places) + 1):
        if end == len(places) or places[end] != places[end - 1] + 1:
            yield places[begin], items[begin:end]
            begin = end


def started_items(directory: Path, name: str) -> frozenset[str] | None:
    """Return what the dead process `name` had started of what it had claimed; None when nobody knows."""
    try:
        lines = [line.strip() for line in (_folder(directory) / name).read_text(errors="replace").splitlines()]
    except OSError:
        return None
    return frozenset(filter(None, lines[3:])) if lines[1:3] == [boot_id(), _JOURNAL_MARK] else None


def _entries(items: Sequence[str]) -> bytes:
    return (f"%-{_ENTRY_BYTES - 1}s\n" * len(items) % tuple(items)).encode()


def forget(directory: Path, name: str) -> None:
    """Remove the file of the dead process `name`: what it held has been released."""
    _remove(_folder(directory) / name)


def reap(directory: Path, release: Callable[[str, str], bool]) -> int:
    """Call `release(queue, name)` for each process that is certainly dead, and return how many there were.

    One for which it returns False is found again at the next call, and so are those after it. Any number of processes
    may call this at once.
    """
    reaped = 0
    for path in _files(directory):
        try:
            handle = os.open(path, os.O_RDWR)
        except OSError:  # removed just now
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # it lives
            os.close(handle)
            continue
        try:
            queue, where, age = _read(handle)
            if where == boot_id():
                if not release(queue, path.name):
                    break
                reaped += 1
                _remove(path)
            elif age > _STALE_AFTER:
                _remove(path)
        finally:
            os.close(handle)
    return reaped


def _remove(path: Path) -> None:
    with suppress(OSError):  # it is found again, and a second release does no harm
        path.unlink(missing_ok=True)


def _files(directory: Path) -> list[Path]:
    try:
        with os.scandir(_folder(directory)) as entries:  # which knows what is a file; the clock looks again and again
            return sorted(Path(each.path) for each in entries if each.name[0] != "." and each.is_file())
    except OSError:
        return []


def _read(handle: int) -> tuple[str, str, float]:
    """Return the queue, the kernel, and the file's age in seconds. One that can't be read is of no known kernel."""
    try:
        queue, where, *_ = [*os.read(handle, 4096).decode(errors="replace").splitlines(), "", ""]
        return queue, where, time.time() - os.fstat(handle).st_mtime
    except OSError:
        return "", "", 0.0


def _folder(directory: Path) -> Path:
    return directory / "workers"
