"""Find dead worker processes of this machine: each running one locks a file in the data directory.

The kernel frees the lock when the process has ended, however it ended, and never before. So the next process that
starts with the same data directory releases at once what a dead one held, instead of waiting until its claims lapse.
A process without a file, or on another machine, never counts as dead.

    workers/<owner>    the kernel that the lock belongs to, in one line
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from handlers.support.private_file import make_private_folder
from receiver.runtime.process import error_location

_STALE_AFTER: Final = 86_400.0  # seconds after which a file from another kernel is removed
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")

log = logging.getLogger("runhook.worker")


def boot_id() -> str:
    """Return an id of this machine since its start: file locks mean something only within it.

    Containers of one machine share it, so one that replaces another on the same volume finds what that one held.
    """
    try:
        return _BOOT.read_text().strip()
    except OSError:  # not Linux
        return socket.gethostname()


def process_space() -> str:
    """Return an id of the processes that this one can see: a process id means something only within it."""
    with suppress(OSError):
        return f"{boot_id()[:13]} {Path('/proc/self/ns/pid').readlink()}"
    return boot_id()


def process_state(pid: int) -> str:
    """Return "gone" or "suspended" if the process of this id is so, else ""."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1]
    except ProcessLookupError:
        return "gone"
    except (OSError, OverflowError):  # of another user, or not Linux
        return ""
    return {b"T": "suspended", b"t": "suspended", b"Z": "gone", b"X": "gone"}.get(state, "")


class LivenessLock:
    """The locked file of this process. `directory`: the data directory; `owner`: the name under which the process
    claims, unique to it. Raises OSError when the file can't be made."""

    def __init__(self, directory: Path, owner: str) -> None:
        self._path = directory / "workers" / owner
        make_private_folder(self._path.parent)
        draft = self._path.with_name(f".{owner}")  # locked before others can find it
        self._handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(self._handle, f"{boot_id()}\n".encode())
            draft.rename(self._path)
        except OSError:
            draft.unlink(missing_ok=True)
            os.close(self._handle)
            raise

    def end(self) -> None:
        """Remove the file, because this process no longer has claims."""
        self._path.unlink(missing_ok=True)
        os.close(self._handle)


def release_dead(directory: Path, release: Callable[[str], bool]) -> bool:
    """Call `release(owner)` for each process that is certainly dead. Return whether all were released.

    It stops at the first one for which that returns False; the next call starts with it again. An owner for which it
    raises is logged and forgotten: what that one held lapses by time. Any number of processes may call this at once.
    """
    with suppress(OSError):  # no directory: no worker has run here
        for path in sorted((directory / "workers").glob("[!.]*")):
            if not path.is_file():
                continue
            with suppress(OSError):  # it was removed meanwhile, or its process lives
                handle = os.open(path, os.O_RDWR)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    here = os.read(handle, 100).decode(errors="replace").strip() == boot_id()
                    if here and not _released(path.name, release):
                        return False
                    if here or time.time() - os.fstat(handle).st_mtime > _STALE_AFTER:
                        path.unlink(missing_ok=True)
                finally:
                    os.close(handle)
    return True


def _released(owner: str, release: Callable[[str], bool]) -> bool:
    try:
        return release(owner)
    except Exception as error:
        log.error("worker.not_released owner=%r error=%s", owner, error_location(error))
        log.debug("worker.not_released in full", exc_info=True)
        return True
