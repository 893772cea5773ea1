"""Create files and folders that only their owner may read, whatever the umask."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

# Errors of syncing a write-only folder, and of file systems without folder sync.
_NOT_SYNCED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EINVAL})


def make_private_folder(path: Path, mode: int = 0o700) -> None:
    """Create the folder `path` and its parents for their owner only; existing ones are unchanged.

    Raises OSError. `mode`: for folders that others may read. Syncs the names of new folders: a synced file is lost with
    its folder's name.
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
    """Sync the names in the folder `path`. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def folder_for(path: Path) -> Path:
    """Return the folder `path`, or its nearest existing parent.

    Raises PermissionError when that is not a writable folder.
    """
    there = next(each for each in (path, *path.parents) if each.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise PermissionError(f"this user may not write in {there}" if there.is_dir() else f"{there} is not a folder")
    return there


def make_private_file(path: Path) -> None:
    """Create an empty file that only its owner may read and write; an existing one is unchanged.

    Raises OSError. SQLite itself would use the umask, and copies the mode to -wal and -shm.
    """
    make_private_folder(path.parent)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
