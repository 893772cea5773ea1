"""Restrict the data folder to its owner, because it contains results, secrets and bodies."""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from handlers.support.private_file import make_private_folder
from receiver.errors import NotStarted

# Folders in it whose files Runhook manages. Files of sinks are protected by the mode of the data folder.
_OURS: Final = ("redis", "spool", "quarantine")

log = logging.getLogger("runhook.data")


def secure(data: Path) -> None:
    """Create the data folder, or remove the access that a umask gave to other users.

    Keeps its mode, and logs a warning, if another user owns the folder, if it contains the home or current directory,
    or if all users write to it, as to /tmp. Raises NotStarted if the folder cannot be created.
    """
    try:
        make_private_folder(data)
        status = data.stat()
    except OSError as error:
        raise NotStarted(f"can't use the data folder {data}: {error.strerror}; set RUNHOOK_DATA") from None
    if status.st_mode & 0o077:
        whole = data.resolve()
        if status.st_uid != os.geteuid():
            log.warning("data.open_to_others path=%s mode=%o: owned by another user", data, status.st_mode & 0o777)
        elif status.st_mode & stat.S_ISVTX or any(place.resolve().is_relative_to(whole) for place in _not_ours()):
            log.warning("data.open_to_others path=%s: set RUNHOOK_DATA to a separate folder", data)
            return
    _close_to_others(data)
    for folder in (data, *(data / name for name in _OURS)):
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False) or folder != data or entry.name in _OURS:
                    _close_to_others(Path(entry.path))


def _not_ours() -> list[Path]:
    with suppress(RuntimeError, OSError):
        return [Path.cwd(), Path.home()]
    return []


def _close_to_others(path: Path) -> None:
    """Restrict the file or folder to its owner. Skips links, sockets and files of other users."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            if status.st_mode & 0o077 and (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                os.fchmod(handle, status.st_mode & 0o700)
        finally:
            os.close(handle)
