"""Make files and folders that only their owner may read, whatever the umask. Knows no sink and no ledger."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

# Errors of a folder in which this user may only write, and of a file system that syncs no folder.
_NOT_SYNCED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EINVAL})


def make_private_folder(path: Path, mode: int = 0o700) -> None:
    """Make the folder `path`, and those around it, for their owner only; one that exists is left. Raises OSError.

    `mode`: for folders that others may read.

    The names of those that it makes are on disk then: what is synced in a folder is lost with its name.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        with suppress(FileExistsError):
            folder.mkdir(mode=mode)
        try:
            sync_folder(folder.parent)
        except OSError as error:
            if error.errno not in _NOT_SYNCED:
                raise


def sync_folder(path: Path) -> None:
    """Have the names in the folder `path` on disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def folder_for(path: Path) -> Path:
    """Return the folder `path` itself, or the nearest one around it that is there, in which it would be made.

    Raises PermissionError when that is not a folder, or this user may not write in it.
    """
    there = next(each for each in (path, *path.parents) if each.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise PermissionError(f"this user may not write in {there}" if there.is_dir() else f"{there} is not a folder")
    return there


def make_private_file(path: Path) -> None:
    """Make an empty file that only its owner may read and write; one that exists is left. Raises OSError.

    SQLite creates its database with what the umask allows, and gives the files beside it (-wal, -shm) the same mode.
    """
    make_private_folder(path.parent)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
