"""Run several programs in one terminal: prefix their output, restart those that end, and stop all of them together.

This module only knows how to launch a program, not what it does.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import IO, Final, Protocol, TextIO

from receiver.errors import NotStarted, RunhookError, UsageError
from receiver.runtime.forked import ForkedProcess
from receiver.runtime.process import Restarts, StopRequests, drain, exit_text, respawn_delay, stop_signals
from receiver.runtime.working_flag import WorkingFlag

# Prefix of a line in which one of Runhook's programs says why it could not start.
ERROR_PREFIX: Final = "runhook: "

# Maximum seconds of one wait. A signal, such as SIGCHLD, and a program's output end it sooner.
_LONGEST_WAIT: Final = 10.0
_COLOURS = (36, 33, 32, 35, 34, 31)


class Process(Protocol):
    """The common methods of `subprocess.Popen` and `ForkedProcess`."""

    stdout: IO[bytes] | None

    @property
    def pid(self) -> int:
        """Its process id."""

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""

    def wait(self) -> int:
        """Return the exit code when it has ended."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it."""


@dataclass(slots=True)
class Program:
    """A program and its current process. `launch`: starts a process, its output in a pipe or nowhere.

    `why`: returns why it ended, given its exit code. `works`: whether it has reported that it works. `grace`: seconds
    to end after SIGTERM. `last`: whether it is stopped after all others have ended. `take`: gets each line of its
    output, and the foreman; None to print the lines.
    """

    name: str
    launch: Callable[[], Process]
    why: Callable[[int], str] = exit_text
    works: Callable[[], bool] = lambda: True
    grace: float = 10.0
    last: bool = False
    take: Callable[[str, Foreman], None] | None = None
    process: Process | None = None
    restarts: Restarts = field(default_factory=Restarts)
    errors: list[str] = field(default_factory=list)
    # Whether it is being ended to be started again.
    renewed: bool = False
    # The beginning of a line whose end it has not printed yet.
    unfinished: bytes = b""


def program(name: str, main: Callable[[], None], grace: float = 10.0) -> Program:
    """Return the program that runs `main`, as a fork of this process, and calls `say_working` there."""
    flag = WorkingFlag()
    return Program(name, lambda: ForkedProcess(f"runhook {name}", main, flag), works=flag.__bool__, grace=grace)


class Foreman:
    """Run several programs until SIGTERM, Ctrl-C, or one of them can't start.

    `console`: where their lines go. `colour`: whether names are coloured.
    """

    def __init__(
        self, programs: Sequence[Program], console: TextIO | None = None, *, colour: bool | None = None
    ) -> None:
        self._programs = list(programs)
        self._console = console or sys.stdout
        self._colour = self._console.isatty() if colour is None else colour
        self._width = max(len(program.name) for program in programs)
        self._selector = selectors.DefaultSelector()
        self._stops = StopRequests()

    def run(self, ready: Callable[[], bool] = lambda: True, on_ready: Callable[[], None] = lambda: None) -> None:
        """Run until asked to stop. `ready` is polled until it is true, then `on_ready` is called once.

        Raises NotStarted or UsageError, with the program's own line, when one can't start; all have ended then.
        """
        waiting = True
        with stop_signals(self._stops) as reader, self._selector:
            self._selector.register(reader, selectors.EVENT_READ)
            for each in self._programs:
                self._follow(each)
            try:
                while not self._stops:
                    self._start_due()
                    now = time.monotonic()
                    due = [each.restarts.due - now for each in self._programs if each.process is None]
                    self._wait(min([0.1 if waiting else _LONGEST_WAIT, *due]))
                    self._collect_ended()
                    if waiting and ready():
                        waiting = False
                        on_ready()
            finally:
                self._stop()

    def starting(self) -> list[str]:
        """Return the names of the programs that do not work yet."""
        return [each.name for each in self._programs if each.process is None or not each.works()]

    def renew(self, names: Collection[str]) -> None:
        """Restart these programs, for example with a changed environment. Those that are not running are skipped."""
        for each in self._programs:
            if each.name in names and each.process is not None:
                each.renewed = True
                each.process.terminate()

    def say(self, text: str, name: str = "runhook") -> None:
        """Print one line under `name`."""
        number = next((n for n, program in enumerate(self._programs) if program.name == name), -1)
        label = name.ljust(max(self._width, len("runhook")))
        if self._colour:
            colour = _COLOURS[number % len(_COLOURS)] if number >= 0 else 1
            label = f"\x1b[{colour}m{label}\x1b[0m"
        with contextlib.suppress(OSError):  # the terminal is gone; the programs need not know
            self._console.write(f"{label} | {text}\n")
            self._console.flush()

    def _start_due(self) -> None:
        now = time.monotonic()
        for program in self._programs:
            if program.process is None and now >= program.restarts.due:
                program.errors, program.unfinished, program.restarts.started_at = [], b"", now
                try:
                    program.process = program.launch()
                except RunhookError:
                    if not program.restarts.failures:
                        raise
                    program.restarts.due = now + respawn_delay(program.restarts.failures)
                    continue
                self._follow(program)

    def _follow(self, program: Program) -> None:
        """Read what the program prints from now on."""
        if program.process is not None and program.process.stdout is not None:
            os.set_blocking(program.process.stdout.fileno(), False)
            self._selector.register(program.process.stdout, selectors.EVENT_READ, program)

    def _wait(self, seconds: float) -> None:
        """Wait until a program prints or a signal comes, at most `seconds`, and print what there is."""
        for key, _ in self._selector.select(max(0.0, seconds)):
            if isinstance(key.data, Program):
                self._read(key.data)
            else:
                drain(key.fd)

    def _read(self, program: Program) -> None:
        """Print what the program has printed, line by line."""
        assert program.process is not None
        assert program.process.stdout is not None
        while True:
            try:
                chunk = os.read(program.process.stdout.fileno(), 65536)
            except BlockingIOError:
                return
            if not chunk:
                self._selector.unregister(program.process.stdout)
                program.process.stdout.close()
                program.process.stdout = None
                if program.unfinished:
                    self._print(program, program.unfinished)
                    program.unfinished = b""
                return
            *lines, program.unfinished = (program.unfinished + chunk).split(b"\n")
            for line in lines:
                self._print(program, line)

    def _print(self, program: Program, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        if program.take is not None:
            program.take(text, self)
        elif text.startswith(ERROR_PREFIX):  # printed when the program has ended, or one reason would be there twice
            program.errors = [*program.errors[-20:], text.removeprefix(ERROR_PREFIX)]
        else:
            self.say(text, program.name)

    def _collect_ended(self) -> None:
        for program in self._programs:
            if program.process is not None and (code := program.process.poll()) is not None:
                self._finish(program)
                self._ended(program, code)

    def _finish(self, program: Program) -> None:
        """Print the last lines of a program that has ended, and drop its process."""
        if program.process is not None and program.process.stdout is not None:
            self._read(program)
        if program.process is not None and program.process.stdout is not None:  # a grandchild still holds the pipe
            self._selector.unregister(program.process.stdout)
            program.process.stdout.close()
        program.process = None

    def _ended(self, program: Program, code: int) -> None:
        """Decide when the program is started again, and print each new reason once. Raises as `run`."""
        now, restarts = time.monotonic(), program.restarts
        if program.renewed:
            program.renewed = False
            return
        explained = program.errors and code in {1, UsageError.exit_code, NotStarted.exit_code}
        reason = program.errors[-1] if explained else program.why(code)
        ours = program.take is None  # the codes of another program mean something else
        if ours and (code == UsageError.exit_code or (code == NotStarted.exit_code and not restarts.failures)):
            kind = UsageError if code == UsageError.exit_code else NotStarted
            raise kind("\n".join(program.errors) or f"{program.name} can't start: {reason}")
        if restarts.failed(reason, now):
            self.say(f"{reason}; starts again in {restarts.due - now:.1f} s", program.name)

    def _stop(self) -> None:
        """SIGTERM to all, the last ones after the others; SIGKILL when their time is over or a second signal comes."""
        for group in (False, True):
            running = [program for program in self._programs if program.last is group and program.process is not None]
            for program in running:
                assert program.process is not None
                program.process.terminate()
            started = time.monotonic()
            while running:
                self._wait(0.1)
                for program in list(running):
                    assert program.process is not None
                    late = time.monotonic() - started > program.grace or self._stops.urgent
                    if program.process.poll() is None and late:
                        self.say(f"does not end; killing process {program.process.pid}", program.name)
                        program.process.kill()
                        program.process.wait()
                    if program.process.poll() is not None:
                        self._finish(program)
                        running.remove(program)
