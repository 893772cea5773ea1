"""Keeps a set of child processes alive: forks them, watches their jobs, starts them again, stops them in order.

It opens nothing that a fork would share, and knows a child only as a function and what it writes on its board. What
the children do is said in receiver.worker.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import mmap
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Final

from receiver.errors import RunhookError
from receiver.runtime.process import Stops, die_with_parent, kind_and_place, started

log = logging.getLogger("runhook.worker")

OVERSTAY: Final = 1.0
"""Seconds after a job's timeout at which its child is killed: what an alarm could not interrupt must end before its
claims lapse."""
REPLACE: Final = 75
"""Exit code of a child that asks for a fresh process in its place."""

_TICK = 0.25  # seconds between two looks at the boards
_SETTLED = 10.0  # seconds of life after which a child's death is not counted together with those before
_MAX_DELAY = 5.0


def respawn_delay(deaths: int) -> float:
    """Seconds to wait before a child is started again after `deaths` deaths in a row: none after the first."""
    return 0.0 if deaths <= 1 else min(_MAX_DELAY, 0.1 * 2.0 ** (deaths - 1))


class SharedStatus:
    """A page of memory that a child shares with its supervisor: until when its job must have ended, since when it is
    at work, and its last words."""

    _LAST_WORDS = 400  # bytes

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def clear(self) -> None:
        self._page[:] = bytes(mmap.PAGESIZE)

    @property
    def deadline(self) -> float:
        """time.monotonic() at which the job in hand must have ended; 0.0 when there is none."""
        return float(struct.unpack_from("d", self._page, 0)[0])

    @deadline.setter
    def deadline(self, value: float) -> None:
        struct.pack_into("d", self._page, 0, value)

    @property
    def ready(self) -> bool:
        """Whether the child has begun to serve."""
        return bool(struct.unpack_from("d", self._page, 8)[0])

    @ready.setter
    def ready(self, value: bool) -> None:
        struct.pack_into("d", self._page, 8, float(value))

    @property
    def exit_reason(self) -> str:
        """Why the child ended, in one line, or ""."""
        return bytes(self._page[16 : 16 + self._LAST_WORDS]).split(b"\0")[0].decode(errors="replace")

    @exit_reason.setter
    def exit_reason(self, text: str) -> None:
        raw = " ".join(text.split()).encode()[: self._LAST_WORDS - 1]
        self._page[16 : 16 + len(raw) + 1] = raw + b"\0"


@dataclass(frozen=True, slots=True)
class ChildContext:
    """What a child is told when it starts: its own unique name, its board, and the names of its dead predecessors
    whose traces nobody has removed."""

    name: str
    board: SharedStatus
    predecessors: tuple[str, ...]


ChildMain = Callable[[ChildContext], int]
"""What a child runs after the fork; its answer is the exit code."""


@dataclass(slots=True)
class _Child:
    label: str
    main: ChildMain
    board: SharedStatus = field(default_factory=SharedStatus)
    pid: int = 0
    name: str = ""
    born: float = 0.0
    deaths: int = 0
    due: float = 0.0
    unburied: list[str] = field(default_factory=list)
    told: str = ""
    killed: bool = False


class Supervisor:
    """Runs `children`, functions by label, until SIGTERM or SIGINT.

    `stop_timeout`: seconds that children have to end after that, before they are killed; a second signal, a second
    later, kills them at once. `reap(label, name)`: called, after the last fork, for each child that had to be killed
    in the end.
    """

    def __init__(
        self,
        children: Mapping[str, ChildMain],
        *,
        stop_timeout: float = 20.0,
        reap: Callable[[str, str], None] = lambda _label, _name: None,
    ) -> None:
        self._children = [_Child(label, main) for label, main in children.items()]
        self._stop_timeout = stop_timeout
        self._reap_killed = reap
        self._stops = Stops()
        self._host = socket.gethostname()

    def run(self) -> int:
        """The exit code: 0 when every child ended by itself in time, else 1."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        before = {
            number: signal.signal(number, self._stops) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        }
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        gc.collect()
        started()  # or the first collection in each child copies every page
        try:
            while not self._stops:
                self._tick(reader)
            return self._stop(reader)
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            gc.unfreeze()
            os.close(reader)
            os.close(writer)

    def _tick(self, reader: int) -> None:
        """Start what is due, then wait for something to happen and look after it."""
        now = time.monotonic()
        for child in self._children:
            if not child.pid and now >= child.due and not self._stops:
                self._start(child)
        self._wait(reader)
        self._kill_overdue()
        self._reap()

    def _wait(self, reader: int) -> None:
        """Until a signal comes, SIGCHLD among them, or it is time to look at the boards."""
        now = time.monotonic()
        due = [child.due - now for child in self._children if not child.pid]
        select.select([reader], [], [], max(0.0, min([_TICK, *due])))
        with contextlib.suppress(BlockingIOError):
            os.read(reader, 4096)

    def _start(self, child: _Child) -> None:
        child.board.clear()
        child.name = f"{child.label}@{self._host}.{token_hex(4)}"
        child.born, child.killed = time.monotonic(), False
        life = ChildContext(child.name, child.board, tuple(child.unburied))
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        child.pid = os.fork()
        if not child.pid:
            _be_child(parent, child.main, life, lambda: bool(self._stops))

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for child in self._children:
            deadline = child.board.deadline
            if child.pid and deadline and now > deadline + OVERSTAY and not child.killed:
                log.error("%s: a job outlives its timeout; killing process %d", child.label, child.pid)
                child.killed = True
                os.kill(child.pid, signal.SIGKILL)

    def _reap(self) -> None:
        for child in self._children:
            if child.pid:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
                if pid:
                    self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: _Child, code: int) -> None:
        """Decide when the child is started again, and say so once for each new reason."""
        now = time.monotonic()
        child.pid = 0
        if child.board.ready:
            child.unburied = []
        child.unburied = [*child.unburied[-9:], child.name]
        if self._stops:
            return
        if code == REPLACE:
            log.info("%s: a fresh process takes over", child.label)
            child.due, child.deaths = now, 0
            return
        child.deaths = 1 if child.board.ready and now - child.born > _SETTLED else child.deaths + 1
        delay = respawn_delay(child.deaths)
        child.due = now + delay
        how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        reason = child.board.exit_reason or how
        if not child.killed and (reason != child.told or child.deaths <= 1 or child.deaths % 12 == 0):
            times = f"{child.deaths} times in a row, " if child.deaths > 1 else ""
            log.error("%s: %s (%sstarts again in %.1f s)", child.label, reason, times, delay)
        child.told = reason

    def _stop(self, reader: int) -> int:
        """Ask all children to end; kill those that don't in time, or when a second signal comes."""
        deadline = time.monotonic() + self._stop_timeout
        living = [child for child in self._children if child.pid]
        for child in living:
            os.kill(child.pid, signal.SIGTERM)
        while any(child.pid for child in living) and time.monotonic() < deadline and not self._stops.hurry:
            self._wait(reader)
            self._kill_overdue()
            self._reap()
        late = [child for child in living if child.pid]
        for child in late:
            why = "a second signal came" if self._stops.hurry else f"did not end within {self._stop_timeout:g} s"
            log.warning("%s: %s; killing process %d", child.label, why, child.pid)
            os.kill(child.pid, signal.SIGKILL)
            child.killed = True
            os.waitpid(child.pid, 0)
            child.pid = 0
        for child in living:
            if child.killed:
                self._reap_killed(child.label, child.name)
        return 1 if any(child.killed for child in living) else 0


def _be_child(
    parent: int, main: ChildMain, life: ChildContext, asked: Callable[[], bool] = lambda: False
) -> None:  # pragma: no cover - in a process of its own
    """The rest of a forked child's life. Never returns: nothing of the supervisor's stack may run twice.

    `asked`: whether a stop came while the supervisor's own signal handlers were still in force here.
    """
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # Ctrl-C and a closed terminal are the supervisor's business
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        die_with_parent(parent)
        code = 0 if asked() else main(life)
    except RunhookError as error:
        code, life.board.exit_reason = error.exit_code, str(error)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException as error:  # noqa: BLE001 - its last words; the supervisor decides
        life.board.exit_reason = kind_and_place(error)
    finally:
        with contextlib.suppress(BaseException):
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # never waits for threads that hang


def in_child(function: Callable[[], None]) -> str:
    """Run `function` in a process of its own, so that nothing it opens is open here. Why it raised, or ""."""

    def main(_life: ChildContext) -> int:
        function()
        return 0

    board = SharedStatus()
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        _be_child(parent, main, ChildContext("check", board, ()))
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return "" if code == 0 else board.exit_reason or f"the check ended with code {code}"
