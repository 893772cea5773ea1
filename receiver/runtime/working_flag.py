"""A flag that a forked program sets once it works. Separate from `forked`, which needs ctypes."""

from __future__ import annotations

import mmap


class WorkingFlag:
    """A flag in memory that a forked program shares with its parent."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, 1)

    def __bool__(self) -> bool:
        return bool(self._page[0])

    def set(self, up: bool) -> None:
        """Set or clear the flag."""
        self._page[0] = up


# The flag of this process, if its parent gave it one.
_flag: WorkingFlag | None = None


def answer_by(flag: WorkingFlag | None) -> None:
    """Have `say_working` set this flag. Call it right after the fork."""
    global _flag  # noqa: PLW0603 - a process has one
    _flag = flag


def say_working() -> None:
    """Report to the parent that this program does its work. Does nothing without a flag."""
    if _flag is not None:
        _flag.set(True)
