"""Keep several processes running: start them, print what they write, restart those that end or hang, stop all in order.

It opens nothing that a fork would share, and knows a process only by how to launch it. `runhook worker` and
`runhook dev` say what the processes do.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from receiver.errors import NotStarted, RunhookError, UsageError
from receiver.runtime.background import Restarts
from receiver.runtime.child import UNFINISHED, ChildStatus, ForkedProcess, exit_text
from receiver.runtime.process import freeze_imports
from receiver.runtime.reload import Reload
from receiver.runtime.stop import StopRequests, stop_signals

# Prefix of a line in which a program reports why it could not start.
ERROR_PREFIX: Final = "runhook: "
# Seconds without a sign of life after which a process is killed that gives them; by then its claims lapse.
PULSE_WITHIN: Final = 15.0
# Seconds for which a process must seem to hang: it may be the whole machine that stood still.
_DOUBT: Final = 1.0
# Longest wait for a signal or output: with processes that give signs of life, and without.
_PULSE_CHECK: Final = 3.0
_LONGEST_WAIT: Final = 10.0

Process = subprocess.Popen[bytes] | ForkedProcess


@dataclass(slots=True, eq=False)
class Program:
    """A program and its current process. `launch`: starts a process, its output in a pipe or nowhere.

    `status`: what its process reports; None for another program, which counts as working. `why`: returns why it ended,
    given its exit code. `grace`: seconds to end after SIGTERM. `last`: whether it is stopped after all others.
    `take`: gets each line of its output; None to print the lines.
    """

    name: str
    launch: Callable[[], Process]
    status: ChildStatus | None = None
    why: Callable[[int], str] = exit_text
    grace: float = 10.0
    last: bool = False
    take: Callable[[str, Supervisor], None] | None = None
    process: Process | None = None
    restarts: Restarts = field(default_factory=Restarts)
    errors: list[str] = field(default_factory=list)
    renewed: bool = False  # it is being ended to be started again
    unfinished: bytes = b""  # the beginning of a line that is not complete
    frozen_since: float = 0.0

    @property
    def works(self) -> bool:
        """Whether it has reported that it does its work."""
        return self.process is not None and (self.status is None or self.status.working)


def program(name: str, main: Callable[[], int | None], grace: float, *, piped: bool) -> Program:
    """Return the program that runs `main`, as a fork of this process, and calls `report_ready` there."""
    status = ChildStatus()
    return Program(name, partial(ForkedProcess, f"runhook {name}", main, status, piped=piped), status, grace=grace)


@contextmanager
def _signal_pipe() -> Iterator[int]:
    """Yield a file descriptor that each signal makes readable, SIGCHLD included, so that a `select` returns at once."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGCHLD, before)
        os.close(reader)
        os.close(writer)


class Supervisor:
    """Run several programs until SIGTERM, SIGINT or SIGHUP; a second signal, a second later, kills them.

    `say(name, text)`: prints or logs a line about a program, or of it. `strict`: a program that can't start ends all.
    `on_death(program, reason)`: called after an end that the program did not choose, such as by a signal or an error;
    returns the programs to run in its place. `reload`: its `accepted` is set when `run` returns for a reload.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        say: Callable[[str, str], None],
        *,
        strict: bool = False,
        on_death: Callable[[Program, str], Sequence[Program]] = lambda program, _: [program],
        pulse_within: float = PULSE_WITHIN,
        reload: Reload | None = None,
    ) -> None:
        self.programs = list(programs)
        self.say = say
        self._strict = strict
        self._on_death = on_death
        self._pulse_within = pulse_within
        self._selector = selectors.DefaultSelector()
        self._stops = StopRequests()
        self._reload = reload

    def run(self, ready: Callable[[], bool] | None = None, on_ready: Callable[[], None] = lambda: None) -> int:
        """Run until a stop or a reload. Return the exit code: 0 if all processes ended in time without SIGKILL, else 1.

        `ready`: polled until it is true, by default until all programs work; then `on_ready` is called once. Raises
        NotStarted or UsageError, with the program's own message, if one cannot start and that ends all.
        """
        ready = ready or (lambda: not self.starting())
        waiting = True
        gc.collect()
        freeze_imports()  # or the first collection in each child copies every page
        on_hangup = self._reload.on_hangup if self._reload else None
        with stop_signals(self._stops, on_hangup), _signal_pipe() as reader, self._selector:
            self._selector.register(reader, selectors.EVENT_READ)
            for each in self.programs:
                self._follow(each)
            try:
                while not self._stops and not (self._reload and self._reload.accept()):
                    self._start_due()
                    self._wait(0.1 if waiting else self._until_next_check())
                    for each in list(self.programs):
                        self._kill_hung(each)
                        self._collect(each)
                    if waiting and ready():
                        waiting = False
                        on_ready()
            finally:
                gc.unfreeze()
                code = self._stop()
                if self._reload and self._stops:  # a stop came during the reload
                    self._reload.accepted = False
        return code

    def starting(self) -> list[str]:
        """Return the names of the programs that do not work yet."""
        return [each.name for each in self.programs if not each.works]

    def renew(self, names: Collection[str]) -> None:
        """Restart these programs, for example with a changed environment. Those that are not running are skipped."""
        for each in self.programs:
            if each.name in names and each.process is not None:
                each.renewed = True
                each.process.terminate()

    def _until_next_check(self) -> float:
        now = time.monotonic()
        pulses = any(each.status and each.status.pulse_at for each in self.programs)
        due = [each.restarts.due - now for each in self.programs if each.process is None]
        return min([_PULSE_CHECK if pulses else _LONGEST_WAIT, *due])

    def _start_due(self) -> None:
        now = time.monotonic()
        for each in self.programs:
            if each.process is None and now >= each.restarts.due and not self._stops:
                each.errors, each.unfinished, each.restarts.started_at, each.frozen_since = [], b"", now, 0.0
                try:
                    each.process = each.launch()
                except (RunhookError, OSError) as error:
                    if isinstance(error, RunhookError) and not each.restarts.failures:
                        raise
                    self._again(each, f"can't be started: {error}", stable=False)
                else:
                    self._follow(each)

    def _follow(self, each: Program) -> None:
        """Read what the program prints from now on."""
        if each.process is not None and each.process.stdout is not None:
            os.set_blocking(each.process.stdout.fileno(), False)
            self._selector.register(each.process.stdout, selectors.EVENT_READ, each)

    def _wait(self, seconds: float) -> None:
        """Wait until a program prints or a signal comes, at most `seconds`, and print what there is."""
        for key, _ in self._selector.select(max(0.0, seconds)):
            if isinstance(key.data, Program):
                self._read(key.data)
            else:
                with suppress(BlockingIOError):
                    os.read(key.fd, 4096)

    def _read(self, each: Program) -> None:
        """Print what the program has printed, line by line, and at the end of its output what is left."""
        while each.process is not None and each.process.stdout is not None:
            try:
                chunk = os.read(each.process.stdout.fileno(), 65536)
            except BlockingIOError:
                return
            *lines, each.unfinished = (each.unfinished + chunk).split(b"\n")
            if not chunk:
                self._unfollow(each)
                lines, each.unfinished = ([each.unfinished] if each.unfinished else []), b""
            for line in lines:
                text = line.decode(errors="replace").rstrip("\r")
                if each.take is not None:
                    each.take(text, self)
                elif text.startswith(ERROR_PREFIX):  # printed when the program has ended, or it would be there twice
                    each.errors = [*each.errors[-20:], text.removeprefix(ERROR_PREFIX)]
                else:
                    self.say(each.name, text)

    def _unfollow(self, each: Program) -> None:
        if each.process is not None and each.process.stdout is not None:
            self._selector.unregister(each.process.stdout)
            each.process.stdout.close()
            each.process.stdout = None

    def _kill_hung(self, each: Program) -> None:
        """Kill a process without signs of life. Checks twice, because this process itself may have been suspended."""
        now = time.monotonic()
        if each.process is None or each.status is None or now - (each.status.pulse_at or now) < self._pulse_within:
            each.frozen_since = 0.0
            return
        each.frozen_since = each.frozen_since or now
        if now - each.frozen_since > _DOUBT:
            each.status.reason = f"gave no sign of life for {self._pulse_within:.0f} s and was killed"
            each.process.kill()

    def _collect(self, each: Program) -> None:
        """See whether the process has ended, print its last lines, and decide when the program is started again."""
        if each.process is None or (code := each.process.poll()) is None:
            return
        self._finish(each)
        if each.renewed:
            each.renewed, each.restarts.due, each.restarts.failures = False, time.monotonic(), 0
            return
        explained = each.errors and code in {1, UsageError.exit_code, NotStarted.exit_code}
        reason = each.errors[-1] if explained else (each.status and each.status.reason) or each.why(code)
        runhook = each.take is None  # the exit codes of another program mean something else
        kind = {UsageError.exit_code: UsageError, NotStarted.exit_code: NotStarted}.get(code)
        if self._strict and runhook and kind and (kind is UsageError or not each.restarts.failures):
            raise kind("\n".join(each.errors) or f"{each.name} can't start: {reason}")
        self._again(each, reason, stable=each.status is None or each.status.working)
        if code not in (0, UNFINISHED):  # as after a SIGTERM to that process alone
            place = self.programs.index(each)
            self.programs[place : place + 1] = self._on_death(each, reason)

    def _again(self, each: Program, reason: str, *, stable: bool) -> None:
        """Start a program again in a while, and print why, where that is news."""
        now = time.monotonic()
        if each.restarts.failed(reason, now, stable=stable):
            times = f" ({each.restarts.failures} times in a row)" if each.restarts.failures > 1 else ""
            self.say(each.name, f"{reason}{times}; starts again in {each.restarts.due - now:.1f} s")

    def _finish(self, each: Program) -> None:
        """Print the last lines of a program that has ended, and drop its process."""
        self._read(each)
        self._unfollow(each)  # a grandchild may still have the pipe
        each.process = None

    def _stop(self) -> int:
        """SIGTERM to all, the last ones after the others; SIGKILL when their time is over or a second signal comes.

        At a reload each process gets the time that it needs.
        """
        code = 0
        reloads = self._reload is not None and self._reload.accepted
        for group in (False, True):
            running = {each: each.process for each in self.programs if each.last is group and each.process is not None}
            for each, process in running.items():
                if each.status is not None:
                    each.status.reloads = reloads
                process.terminate()
            started = time.monotonic()
            while running:
                self._wait(0.1)
                for each, process in list(running.items()):
                    waits = reloads and not self._stops
                    late = (not waits and time.monotonic() - started > each.grace) or self._stops.urgent
                    if process.poll() is None and late:
                        why = "a second signal came" if self._stops.urgent else f"did not end within {each.grace:g} s"
                        self.say(each.name, f"{why}; killing process {process.pid}")
                        process.kill()
                        process.wait()
                        code = 1
                    if (ended := process.poll()) is not None:
                        if ended == UNFINISHED:
                            self.say(each.name, f"a send did not end within {each.grace:g} s; it is made again")
                            code = 1
                        self._finish(each)
                        del running[each]
        return code
