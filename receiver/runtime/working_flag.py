"""A flag that a forked program raises once it works. Apart from `forked`, which needs ctypes."""

from __future__ import annotations

import mmap


class WorkingFlag:
    """What a forked program raises when it works, in memory that it shares with who has forked it."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, 1)

    def __bool__(self) -> bool:
        return bool(self._page[0])

    def set(self, up: bool) -> None:
        """Raise it, or take it down."""
        self._page[0] = up


# Of this process, if it was forked by one that wants to know.
_flag: WorkingFlag | None = None


def answer_by(flag: WorkingFlag | None) -> None:
    """Have `say_working` raise this flag, in a process that was forked just now."""
    global _flag  # noqa: PLW0603 - a process has one
    _flag = flag


def say_working() -> None:
    """Say that this program does its work, to the process that has forked it; without one, to nobody."""
    if _flag is not None:
        _flag.set(True)
