"""Keep a set of child processes running: fork them, watch their jobs, start them again, stop them in order.

It opens nothing that a fork would share, and knows a child only as a function and by its SharedStatus. What the
children do is in receiver.worker.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import mmap
import os
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
from receiver.runtime.process import (
    Restarts,
    StopRequests,
    die_with_parent,
    drain,
    error_location,
    exit_text,
    freeze_imports,
    readable,
    stop_signals,
)

log = logging.getLogger("runhook.worker")

# Seconds after a job's timeout at which its child is killed: what an alarm could not interrupt must end before its
# claims lapse.
OVERSTAY: Final = 1.0
# Exit code of a child that asks for a fresh process in its place.
REPLACE: Final = 75

_TICK = 0.25  # seconds between two checks of the children's status


class SharedStatus:
    """A page of memory that a child shares with its supervisor: its job's deadline, whether it serves, why it ended."""

    _REASON_BYTES = 400

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def clear(self) -> None:
        """Reset everything, for the next child."""
        self._page[:] = bytes(mmap.PAGESIZE)

    @property
    def deadline(self) -> float:
        """time.monotonic() at which the current job must have ended; 0.0 when there is none."""
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
        return bytes(self._page[16 : 16 + self._REASON_BYTES]).split(b"\0")[0].decode(errors="replace")

    @exit_reason.setter
    def exit_reason(self, text: str) -> None:
        raw = " ".join(text.split()).encode()[: self._REASON_BYTES - 1]
        self._page[16 : 16 + len(raw) + 1] = raw + b"\0"


@dataclass(frozen=True, slots=True)
class ChildContext:
    """What a child gets when it starts. `name`: its own, unique. `predecessors`: names of dead children in its place
    that held something nobody has released."""

    name: str
    status: SharedStatus
    predecessors: tuple[str, ...]


# What a child runs after the fork; it returns the exit code.
ChildMain = Callable[[ChildContext], int]


@dataclass(slots=True)
class _Child:
    label: str
    main: ChildMain
    status: SharedStatus = field(default_factory=SharedStatus)
    restarts: Restarts = field(default_factory=Restarts)
    pid: int = 0
    name: str = ""
    unreaped: list[str] = field(default_factory=list)
    killed: bool = False


class Supervisor:
    """Run `children`, functions by label, until SIGTERM or SIGINT.

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
        self._reap = reap
        self._stops = StopRequests()
        self._host = socket.gethostname()

    def run(self) -> int:
        """Return the exit code: 0 when every child ended by itself in time, else 1."""
        with stop_signals(self._stops) as reader:
            gc.collect()
            freeze_imports()  # or the first collection in each child copies every page
            try:
                while not self._stops:
                    self._start_due()
                    self._watch(reader)
                return self._stop(reader)
            finally:
                gc.unfreeze()

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if not child.pid and now >= child.restarts.due and not self._stops:
                self._start(child)

    def _watch(self, reader: int) -> None:
        """Wait for a signal, SIGCHLD among them, or the next check; then see to overdue and ended children."""
        now = time.monotonic()
        due = [child.restarts.due - now for child in self._children if not child.pid and not self._stops]
        readable([reader], max(0.0, min([_TICK, *due])))
        drain(reader)
        self._kill_overdue()
        self._collect_ended()

    def _start(self, child: _Child) -> None:
        child.status.clear()
        child.name = f"{child.label}@{self._host}.{token_hex(4)}"
        child.restarts.started_at, child.killed = time.monotonic(), False
        context = ChildContext(child.name, child.status, tuple(child.unreaped))
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        child.pid = os.fork()
        if not child.pid:
            _run_child(parent, child.main, context, lambda: bool(self._stops))

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for child in self._children:
            deadline = child.status.deadline
            if child.pid and deadline and now > deadline + OVERSTAY and not child.killed:
                log.error("%s: a job outlives its timeout; killing process %d", child.label, child.pid)
                child.killed = True
                os.kill(child.pid, signal.SIGKILL)

    def _collect_ended(self) -> None:
        for child in self._children:
            if child.pid:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
                if pid:
                    self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: _Child, code: int) -> None:
        """Decide when the child is started again, and log each new reason once."""
        now = time.monotonic()
        child.pid = 0
        if child.status.ready:
            child.unreaped = []
        child.unreaped = [*child.unreaped[-9:], child.name]
        if self._stops:
            return
        restarts = child.restarts
        if code == REPLACE:
            log.info("%s: a fresh process takes over", child.label)
            restarts.due, restarts.failures = now, 0
            return
        reason = child.status.exit_reason or exit_text(code)
        if restarts.failed(reason, now, stable=child.status.ready) and not child.killed:
            times = f"{restarts.failures} times in a row, " if restarts.failures > 1 else ""
            log.error("%s: %s (%sstarts again in %.1f s)", child.label, reason, times, restarts.due - now)

    def _stop(self, reader: int) -> int:
        """Ask all children to end; kill those that don't in time, or at a second signal. Return the exit code."""
        deadline = time.monotonic() + self._stop_timeout
        running = [child for child in self._children if child.pid]
        for child in running:
            os.kill(child.pid, signal.SIGTERM)
        while any(child.pid for child in running) and time.monotonic() < deadline and not self._stops.urgent:
            self._watch(reader)
        for child in (child for child in running if child.pid):
            why = "a second signal came" if self._stops.urgent else f"did not end within {self._stop_timeout:g} s"
            log.warning("%s: %s; killing process %d", child.label, why, child.pid)
            os.kill(child.pid, signal.SIGKILL)
            child.killed = True
            os.waitpid(child.pid, 0)
            child.pid = 0
        killed = [child for child in running if child.killed]
        for child in killed:
            self._reap(child.label, child.name)
        return 1 if killed else 0


def _run_child(
    parent: int, main: ChildMain, context: ChildContext, stopping: Callable[[], bool] = lambda: False
) -> None:  # pragma: no cover - in a process of its own
    """Be the forked child. Never returns: nothing of the supervisor's stack may run twice.

    `stopping`: whether a stop came while the supervisor's own signal handlers were still in force here.
    """
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # Ctrl-C and a closed terminal are the supervisor's business
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        die_with_parent(parent)
        code = 0 if stopping() else main(context)
    except RunhookError as error:
        code, context.status.exit_reason = error.exit_code, str(error)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException as error:  # noqa: BLE001 - the supervisor logs it and decides
        context.status.exit_reason = error_location(error)
    finally:
        with contextlib.suppress(BaseException):
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # never waits for threads that hang


def in_child(function: Callable[[], None]) -> str:
    """Run `function` in a process of its own, so that nothing it opens is open here. Return why it raised, or ""."""

    def main(_context: ChildContext) -> int:
        function()
        return 0

    status = SharedStatus()
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        _run_child(parent, main, ChildContext("check", status, ()))
    _, ended = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(ended)
    return "" if code == 0 else status.exit_reason or f"the check ended with code {code}"
