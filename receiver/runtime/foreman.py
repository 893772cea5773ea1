"""Runs several programs in one terminal: prefixes what they print, starts again what ends, stops all of them together.

It knows a part as a command line and nothing of what the parts are.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TextIO

from receiver.errors import NotStarted, RunhookError, UsageError
from receiver.runtime.process import Stops, spawn
from receiver.runtime.supervisor import respawn_delay

ERROR_PREFIX: Final = "runhook: "
"""How a program of ours begins what it says of its start, above all why it could not."""

_SETTLED = 10.0  # seconds of life after which an end is not counted together with those before
_COLOURS = (36, 33, 32, 35, 34, 31)


@dataclass(slots=True)
class Program:
    """A program. `launch`: starts it anew, its output in a pipe or nowhere. `why`: why it ended, given its exit code.
    `grace`: seconds that it has to end after SIGTERM. `last`: it is stopped after all the others have ended."""

    name: str
    launch: Callable[[], subprocess.Popen[bytes]]
    why: Callable[[int], str] = lambda code: f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
    grace: float = 10.0
    last: bool = False
    process: subprocess.Popen[bytes] | None = None
    born: float = 0.0
    deaths: int = 0
    due: float = 0.0
    told: str = ""
    errors: list[str] = field(default_factory=list)
    rest: bytes = b""


def program(name: str, command: Sequence[str], environ: Mapping[str, str], grace: float = 10.0) -> Program:
    """A part that is a command with `environ` as its whole environment."""

    def launch() -> subprocess.Popen[bytes]:
        return spawn(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(environ))

    return Program(name, launch, grace=grace)


class Foreman:
    """Several parts until SIGTERM, Ctrl-C, or one of them can't start.

    `console`: where their lines go. `colour`: whether names are coloured.
    """

    def __init__(self, parts: Sequence[Program], console: TextIO | None = None, *, colour: bool | None = None) -> None:
        self._parts = list(parts)
        self._console = console or sys.stdout
        self._colour = self._console.isatty() if colour is None else colour
        self._width = max(len(part.name) for part in parts)
        self._selector = selectors.DefaultSelector()
        self._stops = Stops()
        self._broken = False

    def run(self, ready: Callable[[], bool] = lambda: True, on_ready: Callable[[], None] = lambda: None) -> None:
        """Run until asked to stop. `ready` is polled until it is true, then `on_ready` is called once.

        Raises NotStarted or UsageError, with the part's own line, when one can't start; all have ended then.
        """
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        stops = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {number: signal.signal(number, self._stops) for number in stops}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._selector.register(reader, selectors.EVENT_READ)
        waiting = True
        try:
            while not self._stops:
                self._start_due()
                self._wait(0.1 if waiting else 1.0)
                self._reap()
                if waiting and ready():
                    waiting = False
                    on_ready()
        finally:
            self._stop()
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            os.close(reader)
            os.close(writer)

    def say(self, text: str, name: str = "runhook") -> None:
        """Print one line under `name`."""
        number = next((n for n, part in enumerate(self._parts) if part.name == name), -1)
        label = name.ljust(max(self._width, len("runhook")))
        if self._colour:
            colour = _COLOURS[number % len(_COLOURS)] if number >= 0 else 1
            label = f"\x1b[{colour}m{label}\x1b[0m"
        try:
            self._console.write(f"{label} | {text}\n")
            self._console.flush()
        except OSError:  # the terminal is gone; the parts need not know
            self._broken = True

    def _start_due(self) -> None:
        now = time.monotonic()
        for part in self._parts:
            if part.process is None and now >= part.due:
                part.errors, part.rest, part.born = [], b"", now
                try:
                    part.process = part.launch()
                except RunhookError:
                    if not part.deaths:
                        raise
                    part.due = now + respawn_delay(part.deaths)
                    continue
                if part.process.stdout is not None:
                    os.set_blocking(part.process.stdout.fileno(), False)
                    self._selector.register(part.process.stdout, selectors.EVENT_READ, part)

    def _wait(self, most: float) -> None:
        """Until a part prints, a signal comes, something is due, or `most` seconds are over."""
        now = time.monotonic()
        due = [part.due - now for part in self._parts if part.process is None]
        for key, _ in self._selector.select(max(0.0, min([most, *due]))):
            if isinstance(key.data, Program):
                self._read(key.data)
            else:
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, 4096)

    def _read(self, part: Program) -> None:
        """Print what the part has printed, line by line."""
        assert part.process is not None
        assert part.process.stdout is not None
        while True:
            try:
                chunk = os.read(part.process.stdout.fileno(), 65536)
            except BlockingIOError:
                return
            if not chunk:
                self._selector.unregister(part.process.stdout)
                part.process.stdout.close()
                part.process.stdout = None
                if part.rest:
                    self._line(part, part.rest)
                    part.rest = b""
                return
            *lines, part.rest = (part.rest + chunk).split(b"\n")
            for line in lines:
                self._line(part, line)

    def _line(self, part: Program, raw: bytes) -> None:
        text = raw.decode(errors="replace").rstrip("\r")
        if text.startswith(ERROR_PREFIX):  # told when the part ends, lest one trouble is told twice
            part.errors = [*part.errors[-20:], text.removeprefix(ERROR_PREFIX)]
        else:
            self.say(text, part.name)

    def _reap(self) -> None:
        """Look after parts that have ended."""
        for part in self._parts:
            if part.process is not None and (code := part.process.poll()) is not None:
                self._drain(part)
                part.process = None
                self._ended(part, code)

    def _drain(self, part: Program) -> None:
        if part.process is not None and part.process.stdout is not None:
            self._read(part)
        if part.process is not None and part.process.stdout is not None:  # a grandchild still holds the pipe
            self._selector.unregister(part.process.stdout)
            part.process.stdout.close()

    def _ended(self, part: Program, code: int) -> None:
        now = time.monotonic()
        spoke = part.errors and code in {1, UsageError.exit_code, NotStarted.exit_code}
        reason = part.errors[-1] if spoke else part.why(code)
        if code == UsageError.exit_code or (code == NotStarted.exit_code and not part.deaths):
            kind = UsageError if code == UsageError.exit_code else NotStarted
            raise kind("\n".join(part.errors) or f"{part.name} can't start: {reason}")
        part.deaths = 1 if now - part.born > _SETTLED else part.deaths + 1
        delay = respawn_delay(part.deaths)
        part.due = now + delay
        if reason != part.told or part.deaths == 1 or part.deaths % 12 == 0:
            self.say(f"{reason}; starts again in {delay:.1f} s", part.name)
        part.told = reason

    def _stop(self) -> None:
        """SIGTERM to all, the last ones after the others; SIGKILL when their time is over or a second signal comes."""
        for group in (False, True):
            living = [part for part in self._parts if part.last is group and part.process is not None]
            for part in living:
                assert part.process is not None
                part.process.terminate()
            started = time.monotonic()
            while living:
                self._wait(0.1)
                for part in list(living):
                    assert part.process is not None
                    late = time.monotonic() - started > part.grace or self._stops.hurry
                    if part.process.poll() is None and late:
                        self.say(f"does not end; killing process {part.process.pid}", part.name)
                        part.process.kill()
                        part.process.wait()
                    if part.process.poll() is not None:
                        self._drain(part)
                        part.process = None
                        living.remove(part)
