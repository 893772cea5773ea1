"""Single keys of a terminal, without the Enter key."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from handlers.support.daemon_pool import in_thread


@contextmanager
def keys(report: Callable[[str], None]) -> Iterator[bool]:
    """Call `report`, in a thread, with each key that is pressed during the block. Gives False where no person types.

    The terminal is as it was afterwards.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield False
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)  # Ctrl-C stays what it is
    try:
        in_thread("keyboard", lambda: _read(terminal, report))
        yield True
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _read(terminal: int, report: Callable[[str], None]) -> None:
    while data := os.read(terminal, 1):
        report(data.decode("ascii", "replace"))
