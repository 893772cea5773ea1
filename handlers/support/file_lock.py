"""A mutex between threads and processes, held on a file: flock with a timeout.

The caller translates failures into its errors.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from handlers.support.private_file import make_private_folder

# Seconds between attempts: first and maximum pause.
_PAUSES = (0.0005, 0.002)


class NotLocked(Exception):
    """The lock was not acquired. The message continues a sentence: "… was locked by another process for 8 s"."""


class FileLock:
    """The lock at `path`. File and folder are created on first use; the file is open while locked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = threading.Lock()

    @contextmanager
    def held(self, seconds: float) -> Iterator[None]:
        """Hold the lock. Raises NotLocked when it isn't free within `seconds`, or its file can't be opened."""
        end = time.monotonic() + seconds
        if not self._threads.acquire(timeout=max(0.0, seconds)):
            raise NotLocked(f"was locked by another thread for {seconds:.3g} s")
        try:
            file = self._open()
            try:
                if not acquire(file, end - time.monotonic()):
                    raise NotLocked(f"was locked by another process for {max(0.0, seconds):.3g} s")
                try:
                    yield
                finally:
                    fcntl.flock(file, fcntl.LOCK_UN)  # a forked child has the file open, too
            finally:
                os.close(file)
        finally:
            self._threads.release()

    def _open(self) -> int:
        try:
            make_private_folder(self._path.parent)
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise NotLocked(f"can't be locked: {self._path}: {error.strerror}") from None


def is_locked(path: Path) -> bool:
    """Return whether a process holds this file's lock, by trying to take it. True if that is impossible."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(handle)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def acquire(file: int, seconds: float) -> bool:
    """Lock a file; False when it isn't free within `seconds`. flock alone would wait forever. Raises OSError."""
    end = time.monotonic() + seconds
    pause, longest = _PAUSES
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(pause)
            pause = min(pause * 1.5, longest)
        else:
            return True
