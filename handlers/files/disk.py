"""The disk: open folders step by step, replace files atomically, and map errors.

Nothing is opened through a symbolic link, so neither a payload nor a link planted below the root leads out of it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path

from handlers.contract import Refused, Unavailable

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# The folder below the root in which files are written until they are complete.
PARTS = ".parts"
# Flags for reading. A planted FIFO must not block.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def open_subfolder(folder: int, part: str, *, make: bool) -> int | None:
    """Open the folder `part` inside the open `folder`, making it, synced, if `make` is true."""
    assert part not in (".", "..")
    try:
        return os.open(part, _FOLDER, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            return None
    with suppress(FileExistsError):
        os.mkdir(part, mode=0o755, dir_fd=folder)
    os.fsync(folder)
    return os.open(part, _FOLDER, dir_fd=folder)


def sweep(parts: int) -> None:
    """Remove unlocked files, left by killed processes, from the open folder `parts`."""
    for name in os.listdir(parts):
        with suppress(OSError):  # in use, or already removed
            descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parts)
            with os.fdopen(descriptor):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(name, dir_fd=parts)


@contextmanager
def new_file(parts: int, folder: int, name: str) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that writes to a new file in `parts`. When the block ends, it is synced and renamed to `name` in
    `folder`.

    When the block raises, it is removed.
    """
    temporary, file = _make_locked(parts)
    with file:

        def write(chunk: bytes) -> None:
            view = memoryview(chunk)
            while view:
                view = view[file.write(view) or 0 :]

        try:
            yield write
            os.fsync(file.fileno())
            os.rename(temporary, name, src_dir_fd=parts, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=parts)
            raise
    os.fsync(folder)


def _make_locked(parts: int) -> tuple[str, FileIO]:
    """Make a file and lock it, so that no `sweep` removes it. Returns its name too."""
    while True:
        name = secrets.token_hex(16)
        file = FileIO(os.open(name, _NEW, 0o644, dir_fd=parts), "wb")
        with ExitStack() as stack:
            stack.enter_context(file)
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:  # else a sweep removed it before the lock
                stack.pop_all()
                return name, file


@contextmanager
def translated_errors(root: Path) -> Iterator[None]:
    """Raise Refused or Unavailable for the disk's errors inside."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise Refused("a name is too long for the file system") from None
        if error.errno in _FULL:
            raise Unavailable(f"the disk that holds {root} is full") from None
        if error.errno == errno.EXDEV:
            raise Unavailable(f"{root} must be one file system: mount nothing below it") from None
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise Unavailable(f"in {root} a file or link is where a folder belongs") from None
        raise Unavailable(f"{root} can't be used: {os.strerror(error.errno or errno.EIO)}") from None
