"""What a child process reports to its supervisor, in a page of memory that both share.

Apart from `forked`, so that a receiver that runs alone imports no ctypes.
"""

from __future__ import annotations

import mmap
import struct
import time
from typing import Final

# Exit code of a child that asks for a fresh process in its place.
REPLACE: Final = 75
# Exit code of a child that was stopped with work under way.
UNFINISHED: Final = 76
_TEXT: Final = 16  # where the text begins
_TEXT_BYTES: Final = 400


class ChildStatus:
    """Whether a child does its work, when it last gave a sign of life, and why it ended."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def reset(self) -> None:
        """Forget the previous process."""
        self._page[: _TEXT + 1] = bytes(_TEXT + 1)

    @property
    def working(self) -> bool:
        """Whether the child has begun its work."""
        return bool(self._page[0])

    @working.setter
    def working(self, value: bool) -> None:
        self._page[0] = value

    @property
    def pulse_at(self) -> float:
        """time.monotonic() of its last sign of life; 0.0 for a child that gives none."""
        return float(struct.unpack_from("d", self._page, 8)[0])

    def pulse(self) -> None:
        """Give a sign of life."""
        struct.pack_into("d", self._page, 8, time.monotonic())

    @property
    def reason(self) -> str:
        """Why the child ended, in one line, or ""."""
        return bytes(self._page[_TEXT : _TEXT + _TEXT_BYTES]).split(b"\0")[0].decode(errors="replace")

    @reason.setter
    def reason(self, text: str) -> None:
        raw = " ".join(text.split()).encode()[: _TEXT_BYTES - 1]
        self._page[_TEXT : _TEXT + len(raw) + 1] = raw + b"\0"


# The status of this process, if a supervisor started it.
_own: ChildStatus | None = None


def report_to(status: ChildStatus) -> None:
    """Make `status` that of this process. Call it right after the fork."""
    global _own  # noqa: PLW0603 - a process has one
    _own = status


def own_status() -> ChildStatus | None:
    """Return what this process shares with its supervisor; None without one."""
    return _own


def say_working() -> None:
    """Report to the supervisor that this process does its work. Does nothing without one."""
    if _own is not None:
        _own.working = True
