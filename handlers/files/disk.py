"""The disk: folders that are opened one inside the other, files that replace others when they are complete, and errors.

Nothing is opened through a symbolic link, so neither a payload nor a link planted below the root leads out of it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from handlers.contract import Refused, Unavailable
from handlers.mirror.store import ObjectTarget

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
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


def temporary_name(target: ObjectTarget, name: str) -> str:
    """Return a new name for a file while it is written. It begins as each of this event for this file."""
    writer = hashlib.sha256(target.delivery.event_id.encode(errors="replace")).hexdigest()[:8]
    return f".{name}.{writer}.{secrets.token_hex(6)}.part"


def remove_temporary(folder: int, target: ObjectTarget, name: str) -> None:
    """Remove what earlier attempts of this event have left of the file. One that is still writing it then fails."""
    if target.delivery.attempt == 1:
        return
    beginning = temporary_name(target, name).rsplit(".", 2)[0] + "."
    for left in os.listdir(folder):
        if left.startswith(beginning):
            with suppress(FileNotFoundError):
                os.unlink(left, dir_fd=folder)


def is_hidden(name: str) -> bool:
    """Whether a file of this name is not one of the mirror: temporary, or a note beside another."""
    return name.startswith(".")


@contextmanager
def new_file(folder: int, target: ObjectTarget, name: str) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that writes to a new file, which replaces `name`, synced, when the block ends.

    When the block raises, the new file is removed.
    """
    remove_temporary(folder, target, name)
    temporary = temporary_name(target, name)
    descriptor = os.open(temporary, _NEW, 0o644, dir_fd=folder)
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
            raise Unavailable(f"in {root} a file or link is where a folder belongs") from None
        raise Unavailable(f"{root} can't be used: {os.strerror(error.errno or errno.EIO)}") from None
