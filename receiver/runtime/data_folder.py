"""The data folder is its owner's alone: results, secrets and bodies lie in it. Knows the names of what is in it."""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from handlers.support.private_file import make_private_folder
from receiver.errors import NotStarted

# Folders in it whose files are ours as well. What sinks keep there is theirs, behind the folder's own mode.
_OURS: Final = ("redis", "spool", "quarantine")

log = logging.getLogger("runhook.data")


def secure(data: Path) -> None:
    """Make the data folder, or take from everybody else what a umask left them of it.

    A folder that somebody else owns is left as it is, and so is one around the home or the current directory, or one
    that everybody writes into, such as /tmp, for it is no data folder: both are logged. Raises NotStarted when it can't
    be made.
    """
    try:
        make_private_folder(data)
        status = data.stat()
    except OSError as error:
        raise NotStarted(f"can't use the data folder {data}: {error.strerror}; set RUNHOOK_DATA") from None
    if status.st_mode & 0o077:
        whole = data.resolve()
        if status.st_uid != os.geteuid():
            log.warning("data.open_to_others path=%s mode=%o: it is not ours to change", data, status.st_mode & 0o777)
        elif status.st_mode & stat.S_ISVTX or any(place.resolve().is_relative_to(whole) for place in _not_ours()):
            log.warning("data.open_to_others path=%s: set RUNHOOK_DATA to a folder of its own", data)
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
    """Leave the file or folder to its owner alone; links, sockets and other people's files are left."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            if status.st_mode & 0o077 and (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                os.fchmod(handle, status.st_mode & 0o700)
        finally:
            os.close(handle)
