"""How far a command is: a bar with the time that is left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Final, Self

from receiver.cli.output import out

# Seconds between two plain lines at the least, but for the first and the last.
_BETWEEN: Final = 5.0


class ProgressLine:
    """Shows `done` of `total` `what`, such as "op_1" or "deliveries". A context manager.

    Elsewhere than on a terminal: with `every`, each change on standard output, for it was asked for; else, on standard
    error, one line in five seconds, and the last.
    """

    def __init__(self, what: str, total: int, *, every: bool = False) -> None:
        self._what = what
        self._total = total
        self._every = every
        self._printed: int | None = None
        self._at = 0.0
        self._done = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._total and sys.stderr.isatty() and sys.stdout.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(self._what, total=self._total)
            self._bar.start()
        return self

    def show(self, done: int) -> None:
        """Show that so many are done."""
        self._done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
        elif self._total and done != self._printed and (self._every or time.monotonic() - self._at >= _BETWEEN):
            self._print()

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._printed is not None and self._printed != self._done:
            self._print()

    def _print(self) -> None:
        self._printed, self._at = self._done, time.monotonic()
        line = f"{self._what}: {self._done} of {self._total}"
        if self._every:
            out().print(line)
        else:
            sys.stderr.write(f"runhook: {line}\n")
