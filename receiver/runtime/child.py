"""What a child process and its supervisor know of each other: a page of shared memory, and what the child is given."""

from __future__ import annotations

import mmap
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# Exit code of a child that asks for a fresh process in its place.
REPLACE: Final = 75


class SharedStatus:
    """A page of memory that a child's unit shares with the supervisor: its job's deadline, whether it serves, how many
    sends it has under way, why it ended, and why it should get a process of its own."""

    _TEXT_BYTES = 400
    _EXIT, _TROUBLE = 64, 64 + 400  # where the texts begin

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    @property
    def deadline(self) -> float:
        """time.monotonic() at which the current job must have ended; 0.0 when there is none."""
        return self._number(0)

    @deadline.setter
    def deadline(self, value: float) -> None:
        struct.pack_into("d", self._page, 0, value)

    @property
    def ready(self) -> bool:
        """Whether the child has begun to serve."""
        return bool(self._number(8))

    @ready.setter
    def ready(self, value: bool) -> None:
        struct.pack_into("d", self._page, 8, float(value))

    @property
    def pulse_due(self) -> float:
        """time.monotonic() at which the process must have given its next sign of life; 0.0 when it gives none."""
        return self._number(16)

    @pulse_due.setter
    def pulse_due(self, value: float) -> None:
        struct.pack_into("d", self._page, 16, value)

    @property
    def sends(self) -> int:
        """How many sends are under way."""
        return int(self._number(24))

    @sends.setter
    def sends(self, value: int) -> None:
        struct.pack_into("d", self._page, 24, value)

    @property
    def exit_reason(self) -> str:
        """Why the child ended, in one line, or ""."""
        return self._text(self._EXIT)

    @exit_reason.setter
    def exit_reason(self, text: str) -> None:
        self._put_text(self._EXIT, text)

    @property
    def trouble(self) -> str:
        """Why the unit should have a process of its own, in one line, or ""."""
        return self._text(self._TROUBLE)

    @trouble.setter
    def trouble(self, text: str) -> None:
        self._put_text(self._TROUBLE, text)

    def _number(self, place: int) -> float:
        return float(struct.unpack_from("d", self._page, place)[0])

    def _text(self, place: int) -> str:
        if not self._page[place]:
            return ""
        return bytes(self._page[place : place + self._TEXT_BYTES]).split(b"\0")[0].decode(errors="replace")

    def _put_text(self, place: int, text: str) -> None:
        raw = " ".join(text.split()).encode()[: self._TEXT_BYTES - 1]
        self._page[place : place + len(raw) + 1] = raw + b"\0"


def _at_sigterm(call: Callable[[], None]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: call())


@dataclass(frozen=True, slots=True)
class ChildContext:
    """What a unit, the work of one label, gets when it starts.

    `name`: its own, unique. `predecessors`: names of dead units of its label that held something nobody has released.
    `alone`: it has the process for itself, and its main thread. `apart`: why it has it, for a time; else "".
    `on_stop`: takes what is to be called, once, when the unit is asked to stop; in the main thread, as a signal
    handler. `on_busy`: called when a job starts.
    """

    name: str
    status: SharedStatus
    predecessors: tuple[str, ...]
    alone: bool = True
    apart: str = ""
    on_stop: Callable[[Callable[[], None]], None] = _at_sigterm
    on_busy: Callable[[], None] = lambda: None

    def on_job(self, deadline: float) -> None:
        """Tell the supervisor by when the job that starts must have ended, by time.monotonic(); 0.0: it has ended."""
        self.status.deadline = deadline
        if deadline:
            self.on_busy()


# What a unit runs after the fork; it returns the exit code.
ChildMain = Callable[[ChildContext], int]
