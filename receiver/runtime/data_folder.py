"""Restrict the data folder to its owner, because it contains results, secrets and bodies."""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

from handlers.support.private_file import make_private_folder
from receiver.errors import NotStarted

log = logging.getLogger("runhook.data")


def secure(data: Path) -> None:
    """Create the data folder, or remove the access that a umask gave to other users: then they reach no file in it.

    Keeps its mode, and logs a warning, if another user owns the folder, if it contains the home or current directory,
    or if all users write to it, as to /tmp. Raises NotStarted if the folder cannot be created.
    """
    try:
        make_private_folder(data)
        status = data.stat()
    except OSError as error:
        raise NotStarted(f"can't use the data folder {data}: {error.strerror}; set RUNHOOK_DATA") from None
    if not status.st_mode & 0o077:
        return
    whole = data.resolve()
    if status.st_uid != os.geteuid():
        log.warning("data.open_to_others path=%s mode=%o: owned by another user", data, status.st_mode & 0o777)
    elif status.st_mode & stat.S_ISVTX or any(place.resolve().is_relative_to(whole) for place in _not_ours()):
        log.warning("data.open_to_others path=%s: set RUNHOOK_DATA to a separate folder", data)
    else:
        with suppress(OSError):
            data.chmod(status.st_mode & 0o700)


def _not_ours() -> list[Path]:
    with suppress(RuntimeError, OSError):
        return [Path.cwd(), Path.home()]
    return []
