"""The variables of a running `runhook dev`, for commands in other terminals that run in the same folder.

They are in a file that only its owner can read. `dev` keeps it locked: an unlocked file was left by a `dev` that was
killed, and is ignored. A file of another user is ignored too: it could choose the ledger, the config and the Skyvern
server of commands in a shared folder. The file holds no key of Skyvern: the session has its own key, which signs the
webhooks of `runhook trigger`.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from handlers.support.file_lock import acquire
from receiver.config.variables import Variables

FILE: Final = Path(".runhook-dev.json")
ORIGIN: Final = f"`runhook dev` in this folder ({FILE})"
# Variables that identify a service: a command with another value for one of them means another service.
_WHICH: Final = ("RUNHOOK_CONFIG", "RUNHOOK_DATA", "REDIS_URL", "DATABASE_URL")
_MORE: Final = ("PUBLIC_URL", "SKYVERN_BASE_URL")
_PATHS: Final = ("RUNHOOK_CONFIG", "RUNHOOK_DATA")
# Do not follow a link, and do not wait for a pipe.
_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# Seconds for which a command that is reading the file may keep `dev` from locking it.
_READ_WITHIN: Final = 1.0


@dataclass(frozen=True, slots=True)
class DevSession:
    """A running `runhook dev`. `url`, `console`: their addresses. `key`: its signing secret. `local_key`: whether it
    has no other key. `variables`: those it was started with; "" stands for a default."""

    url: str
    console: str
    key: str = field(repr=False)
    local_key: bool
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    def is_meant(self, variables: Variables) -> bool:
        """Return whether a command with these variables means this service."""
        given = {name: _absolute(name, variables.text(name)) for name in _WHICH}
        return all(value in ("", self.variables.get(name)) for name, value in given.items())

    def complete(self, variables: Variables) -> Variables:
        """Return the variables, completed by those of the session."""
        for name, value in {**self.variables, "SKYVERN_API_KEY": self.key}.items():
            if value and not variables.text(name):
                variables = variables.replaced(name, value, ORIGIN)
        return variables


def running() -> DevSession | None:
    """Return the session of the `dev` that runs in this folder; None if no `dev` runs or its file is unreadable."""
    with suppress(OSError, ValueError, TypeError, UnicodeDecodeError):
        handle = os.open(FILE, os.O_RDONLY | _FLAGS)
        with os.fdopen(handle, "rb") as file:
            _check_owner(handle)
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return DevSession(**json.load(file))
    return None


class SessionFile:
    """The session file of a running `dev`. `trouble`: why commands in this folder do not find it; "" when they do."""

    def __init__(self) -> None:
        self.trouble = ""
        try:
            self._handle = os.open(FILE, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
            _check_owner(self._handle)
            if not acquire(self._handle, _READ_WITHIN):
                self.trouble = "another `runhook dev` runs in this folder: commands in this folder work on that one"
        except OSError as error:
            self._give_up(error)

    def write(self, session: DevSession, environ: Mapping[str, str]) -> None:
        """Store the session with the variables of `environ`. Does nothing if there is trouble."""
        if not self.trouble:
            variables = {name: _absolute(name, environ.get(name, "").strip()) for name in (*_WHICH, *_MORE)}
            try:
                os.fchmod(self._handle, 0o600)
                os.ftruncate(self._handle, 0)
                os.pwrite(self._handle, json.dumps({**asdict(session), "variables": variables}).encode(), 0)
            except OSError as error:  # the disk is full
                self._give_up(error)

    def remove(self) -> None:
        """Remove it, at the end of `dev`."""
        if not self.trouble:
            FILE.unlink(missing_ok=True)

    def _give_up(self, error: OSError) -> None:
        self.trouble = f"commands in other terminals do not find this service: {FILE}: {error.strerror}"


def _check_owner(handle: int) -> None:
    """Raise PermissionError for anything but a regular file of this user that has no other name."""
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink > 1:
        raise PermissionError(0, "it is not a file that this user's `runhook dev` made. Remove it")


def _absolute(name: str, value: str) -> str:
    return str(Path(value).resolve()) if value and name in _PATHS else value
