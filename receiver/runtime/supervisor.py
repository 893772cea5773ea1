"""Keep a set of child processes running: fork them, watch their jobs, start them again, stop them in order.

It opens nothing that a fork would share, and knows a child only as a function and by its SharedStatus. What the
children do is in receiver.worker.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from secrets import token_hex
from typing import Final

from receiver.errors import RunhookError
from receiver.runtime.child import REPLACE, ChildContext, ChildMain, SharedStatus
from receiver.runtime.garbage import freeze_imports
from receiver.runtime.parent_death import die_with_parent
from receiver.runtime.process import (
    Restarts,
    StopRequests,
    drain,
    error_location,
    exit_text,
    memory_of,
    readable,
    stop_signals,
)
from receiver.runtime.set_apart import SetApart

log = logging.getLogger("runhook.worker")

# Seconds after a job's timeout at which its child is killed: what an alarm could not interrupt must end before its
# claims lapse.
OVERSTAY: Final = 1.0
# Seconds between two checks of the children's status: while something is sent, or one is to end, and else.
_TICK = 0.25
_IDLE_TICK = 2.0
# Seconds of its own time for which a sign of life must be overdue: it may be the whole machine that stood still.
_FROZEN = 1.0
_MEMORY = 512 << 20  # bytes that a process may have before those who send are set apart
_UNEXPLAINED = 2  # ends in a row of a shared process with nothing under way that are not held against anybody


@dataclass(slots=True)
class _Unit:
    """The work of one label. `unreaped`: names under which it was run that held something nobody has released."""

    main: ChildMain
    unreaped: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Child:
    """A place for one process at a time, which does the work of `labels`. `blamed`: what harm it came to, by the labels
    that may have done it."""

    labels: tuple[str, ...]
    contexts: dict[str, ChildContext] = field(default_factory=dict)
    restarts: Restarts = field(default_factory=Restarts)
    pid: int = 0
    killed: bool = False
    blamed: dict[str, str] = field(default_factory=dict)
    frozen_since: float = 0.0
    leaves_since: float = 0.0

    @property
    def shown(self) -> str:
        """Its name for people."""
        return self.labels[0] if len(self.labels) == 1 else f"{len(self.labels)} sinks in one process"

    @property
    def statuses(self) -> list[SharedStatus]:
        return [context.status for context in self.contexts.values()]

    @property
    def works(self) -> bool:
        """Whether all its labels are served."""
        return bool(self.pid) and all(status.ready for status in self.statuses)


def groups(labels: Iterable[str], sharing: Collection[str], apart: Callable[[str], bool]) -> set[tuple[str, ...]]:
    """Return which labels have a process together: those of `sharing` that are not `apart`, and each other alone."""
    together = tuple(label for label in labels if label in sharing and not apart(label))
    return {(label,) for label in labels if label not in together} | ({together} if together else set())


class Supervisor:
    """Run `children`, functions by label, until SIGTERM or SIGINT.

    `stop_timeout`: seconds that children have to end after that, before they are killed; a second signal, a second
    later, kills them at once. `reap(label, name)`: called, after the last fork, for each child that had to be killed
    in the end. `sharing`: labels that share a process, in which `together` runs their functions, but for those that
    are `set_apart`. Whoever does harm there is, and has a process of its own for a time: another one then takes the
    place of the shared one, which ends in order, as at a stop, where it can. `on_working`: called once, when each child
    has begun to serve.
    """

    def __init__(
        self,
        children: Mapping[str, ChildMain],
        *,
        stop_timeout: float,
        reap: Callable[[str, str], None],
        sharing: Collection[str],
        together: Callable[[Mapping[str, ChildContext]], int],
        set_apart: SetApart,
        on_working: Callable[[], None] = lambda: None,
    ) -> None:
        self._units = {label: _Unit(main) for label, main in children.items()}
        self._sharing = frozenset(sharing)
        self._together = together
        self._set_apart = set_apart
        self._children: list[_Child] = []
        self._leaving: list[_Child] = []
        self._stop_timeout = stop_timeout
        self._reap = reap
        self._stops = StopRequests()
        self._host = socket.gethostname()
        self._on_working: Callable[[], None] | None = on_working

    def run(self) -> int:
        """Return the exit code: 0 when every child ended by itself in time, else 1."""
        with stop_signals(self._stops) as reader:
            gc.collect()
            freeze_imports()  # or the first collection in each child copies every page
            try:
                while not self._stops:
                    self._regroup()
                    self._start_due()
                    self._watch(reader)
                return self._stop(reader)
            finally:
                gc.unfreeze()

    def _regroup(self) -> None:
        """Give each label its place: new ones are started, and what is not wanted any more is asked to end."""
        now = time.time()
        for child in self._children:
            if len(child.labels) > 1:
                self._part(
                    child, {label: it.status.trouble for label, it in child.contexts.items() if it.status.trouble}
                )
        wanted = groups(self._units, self._sharing, lambda label: bool(self._set_apart.why(label, now)))
        for child in [each for each in self._children if each.labels not in wanted]:
            self._children.remove(child)
            if child.pid:
                os.kill(child.pid, signal.SIGTERM)
                child.leaves_since = time.monotonic()
                self._leaving.append(child)
        self._children += [_Child(labels) for labels in sorted(wanted - {each.labels for each in self._children})]

    def _part(self, child: _Child, blamed: Mapping[str, str], *, proven: bool = True) -> None:
        """Set those apart that have, or may have, done harm to others."""
        now = time.time()
        for label, why in blamed.items():
            if label in self._sharing and (len(child.labels) > 1 or self._set_apart.why(label, now)):
                term = self._set_apart.add(label, why, now, proven=proven)
                log.warning("%s: has a process of its own for %.0f s: %s", label, term.until - now, why)

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if not child.pid and now >= child.restarts.due and not self._stops:
                self._start(child)

    def _watch(self, reader: int) -> None:
        """Wait for a signal, SIGCHLD among them, or the next check; then see to overdue and ended children."""
        readable([reader], self._until_next_check())
        drain(reader)
        for child in self._running():
            self._kill_overdue(child)
            self._find_hogs(child)
        self._kill_stragglers()
        self._collect_ended()
        if self._on_working and all(child.works for child in self._children):
            self._on_working()
            self._on_working = None

    def _until_next_check(self) -> float:
        """Return the seconds after which something may be to be done that no signal tells of."""
        now = time.monotonic()
        running = [child for child in self._running() if not child.killed]
        statuses = [status for child in running for status in child.statuses]
        doubtful = self._leaving or any(child.frozen_since for child in running)
        closely = self._stops or self._on_working or doubtful or any(status.sends for status in statuses)
        starts = [child.restarts.due for child in self._children if not child.pid and not self._stops]
        ends = [status.deadline + OVERSTAY for status in statuses if status.deadline]
        due = min([now + (_TICK if closely else _IDLE_TICK), *starts, *ends])
        return max(0.0, due - now)

    def _running(self) -> list[_Child]:
        return [child for child in (*self._children, *self._leaving) if child.pid]

    def _start(self, child: _Child) -> None:
        child.contexts = {
            label: ChildContext(
                name=f"{label}@{self._host}.{token_hex(4)}",
                status=SharedStatus(),
                predecessors=tuple(self._units[label].unreaped),
                apart=self._set_apart.why(label, time.time()) if len(child.labels) == 1 else "",
            )
            for label in child.labels
        }
        child.restarts.started_at, child.killed = time.monotonic(), False
        child.blamed, child.frozen_since = {}, 0.0
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        child.pid = os.fork()
        if not child.pid:
            _run_child(parent, partial(self._main, child), child.statuses[0], lambda: bool(self._stops))

    def _main(self, child: _Child) -> int:
        """In the child: do its work."""
        if len(child.labels) > 1:
            return self._together(child.contexts)
        return self._units[child.labels[0]].main(child.contexts[child.labels[0]])

    def _kill_overdue(self, child: _Child) -> None:
        """Kill a child one of whose jobs outlives its timeout, or in which nothing goes on at all."""
        now = time.monotonic()
        late = [
            label for label, it in child.contexts.items() if it.status.deadline and now > it.status.deadline + OVERSTAY
        ]
        if child.killed or not (late or self._is_frozen(child, now)):
            return
        if late:
            child.blamed = dict.fromkeys(late, "a job outlived its timeout")
            log.error("%s: a job outlives its timeout; killing process %d", ", ".join(late), child.pid)
        else:
            child.blamed = _sending(child, "nothing went on in its process while it was sending")
            log.error("%s: nothing goes on in it; killing process %d", child.shown, child.pid)
        self._kill(child)

    def _kill(self, child: _Child) -> None:
        child.killed = True
        os.kill(child.pid, signal.SIGKILL)

    def _kill_stragglers(self) -> None:
        """Kill those that were asked to end, have no job under way, and are still there."""
        now = time.monotonic()
        for child in self._leaving:
            working = any(status.deadline for status in child.statuses)
            if not (working or child.killed) and now - child.leaves_since > self._stop_timeout:
                log.warning("%s: did not end; killing process %d", child.shown, child.pid)
                self._kill(child)

    def _find_hogs(self, child: _Child) -> None:
        """Set those apart that are sending while the process has much memory."""
        if child.blamed or not (sending := _sending(child, "")) or (memory := memory_of(child.pid)) <= _MEMORY:
            return
        child.blamed = dict.fromkeys(sending, f"it was sending while its process had {memory >> 20} MB of memory")
        self._part(child, child.blamed, proven=len(sending) == 1)

    def _is_frozen(self, child: _Child, now: float) -> bool:
        """Whether its signs of life stay away: seen twice, for this process may have been what stood still."""
        if not any(0.0 < status.pulse_due < now for status in child.statuses):
            child.frozen_since = 0.0
            return False
        child.frozen_since = child.frozen_since or now
        return now - child.frozen_since > _FROZEN

    def _collect_ended(self) -> None:
        for child in self._running():
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: _Child, code: int) -> None:
        """Decide when the child is started again, and log each new reason once."""
        now = time.monotonic()
        child.pid = 0
        for label, context in child.contexts.items():
            unit = self._units[label]
            if context.status.ready:
                unit.unreaped = [name for name in unit.unreaped if name not in context.predecessors]
            unit.unreaped = [*unit.unreaped[-9:], context.name]
        if child in self._leaving:
            self._leaving.remove(child)
        elif not self._stops:
            self._restart(child, code, now)

    def _restart(self, child: _Child, code: int, now: float) -> None:
        restarts = child.restarts
        if code == REPLACE:
            log.info("%s: a fresh process takes over", child.shown)
            restarts.due, restarts.failures = now, 0
            return
        status = child.statuses[0]
        reason = status.exit_reason or exit_text(code)
        ready = any(each.ready for each in child.statuses)
        if restarts.failed(reason, now, stable=ready) and not child.killed:
            times = f"{restarts.failures} times in a row, " if restarts.failures > 1 else ""
            log.error("%s: %s (%sstarts again in %.1f s)", child.shown, reason, times, restarts.due - now)
        blamed = child.blamed or _sending(child, f"its process ended while it was sending: {reason}")
        if not blamed and restarts.failures > _UNEXPLAINED:
            blamed = dict.fromkeys(child.labels, f"its process ends again and again: {reason}")
        self._part(child, blamed, proven=len(blamed) == 1)

    def _stop(self, reader: int) -> int:
        """Ask all children to end; kill those that don't in time, or at a second signal. Return the exit code."""
        deadline = time.monotonic() + self._stop_timeout
        running = self._running()
        for child in running:
            os.kill(child.pid, signal.SIGTERM)
        while any(child.pid for child in running) and time.monotonic() < deadline and not self._stops.urgent:
            self._watch(reader)
        for child in (child for child in running if child.pid):
            why = "a second signal came" if self._stops.urgent else f"did not end within {self._stop_timeout:g} s"
            log.warning("%s: %s; killing process %d", child.shown, why, child.pid)
            os.kill(child.pid, signal.SIGKILL)
            child.killed = True
            os.waitpid(child.pid, 0)
            child.pid = 0
        killed = [child for child in running if child.killed]
        for child in killed:
            for label, context in child.contexts.items():
                self._reap(label, context.name)
        return 1 if killed else 0


def _sending(child: _Child, why: str) -> dict[str, str]:
    """Return those of the child's labels that had a send under way, each with `why`."""
    return {label: why for label, context in child.contexts.items() if context.status.sends}


def _run_child(
    parent: int, main: Callable[[], int], status: SharedStatus, stopping: Callable[[], bool] = lambda: False
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
        code = 0 if stopping() else main()
    except RunhookError as error:
        code, status.exit_reason = error.exit_code, str(error)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException as error:  # noqa: BLE001 - the supervisor logs it and decides
        status.exit_reason = error_location(error)
    finally:
        with contextlib.suppress(BaseException):
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # never waits for threads that hang


def in_child(function: Callable[[], None]) -> str:
    """Run `function` in a process of its own, so that nothing it opens is open here. Return why it raised, or ""."""

    def main() -> int:
        function()
        return 0

    status = SharedStatus()
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        _run_child(parent, main, status)
    _, ended = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(ended)
    return "" if code == 0 else status.exit_reason or f"the check ended with code {code}"
