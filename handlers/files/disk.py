"""The disk: folders that are opened one inside the other, files that one writer at a time makes, and what errors mean.

Nothing is opened through a symbolic link, so neither a payload nor a link planted below the root leads out of it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from handlers.contract import Refused, Unavailable
from handlers.mirror.store import ObjectTarget

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_TRIES = 100  # to make a file that others make or remove at the same time
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# To read a file. A planted FIFO must not block.
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


def open_locked(folder: int, name: str) -> int:
    """Make and lock the file `name`. What is there is removed and never written to: a crashed writer left it, and its
    lock ended with it, or somebody planted a link to another file.

    Raises Unavailable while another worker writes it.
    """
    for _ in range(_MOST_TRIES):
        made = _open_new(folder, name)
        descriptor = _open_old(folder, name) if made is None else made
        if descriptor is None:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_named = _is_named(folder, name, descriptor)
            if is_named and made is not None:
                return descriptor
            if is_named:
                os.unlink(name, dir_fd=folder)
        except BlockingIOError:
            os.close(descriptor)
            raise Unavailable("another worker is writing the same event", retry_after=1.0) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder has renamed it, or it is removed now: start over
    raise Unavailable(f"{name} is being made by others all the time", retry_after=1.0)


def _open_new(folder: int, name: str) -> int | None:
    try:
        return os.open(name, _NEW, 0o644, dir_fd=folder)
    except FileExistsError:
        return None


def _open_old(folder: int, name: str) -> int | None:
    """Open what is there, for its lock; None when it is gone, or was a link or file that can't be opened: removed."""
    try:
        return os.open(name, READ, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO):
            raise
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        return None


def _is_named(folder: int, name: str, descriptor: int) -> bool:
    """Whether the open file is still the one that is called `name`."""
    opened = os.fstat(descriptor)
    try:
        named = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino)


def temporary_name(target: ObjectTarget, name: str) -> str:
    """Return the name under which this event writes the file: another event of the run may write it at the same time.

    The same at each attempt, so that one takes over what the last one left.
    """
    writer = hashlib.sha256(target.delivery.event_id.encode(errors="replace")).hexdigest()[:8]
    return f".{name}.{writer}.part"


def is_hidden(name: str) -> bool:
    """Whether a file of this name is none that the mirror has asked for: temporary, or a note beside another."""
    return name.startswith(".")


@contextmanager
def new_file(folder: int, temporary: str, name: str) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that writes to a new file, which replaces `name`, synced, when the block ends.

    When the block raises, the new file is removed. Raises Unavailable while another worker writes it.
    """
    descriptor = open_locked(folder, temporary)
    with os.fdopen(descriptor, "wb", buffering=0) as file:

        def write(chunk: bytes) -> None:
            view = memoryview(chunk)
            while view:
                view = view[file.write(view) or 0 :]

        try:
            yield write
            os.fsync(descriptor)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
    os.fsync(folder)


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
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise Unavailable(f"in {root} something that is no folder is where a folder belongs") from None
        raise Unavailable(f"{root} can't be used: {os.strerror(error.errno or errno.EIO)}") from None
