"""Processes: started so that none outlives the tests, at a terminal, and as the system lists them."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from receiver.runtime.child import die_with_parent
from tests.support.waiting import PATIENCE, eventually


def launch(
    command: Sequence[str],
    log: Path | int,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    start_new_session: bool = False,
    prepare: Callable[[], object] = lambda: None,
    with_parent: signal.Signals = signal.SIGKILL,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a process that writes to the end of `log`, and that gets the signal `with_parent` when this one ends.

    `prepare`: called in the child.
    """
    # The kernel would take the end of a helper thread for the parent's end, and kill the process too early.
    parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0

    def before() -> None:
        prepare()  # first: a change of user clears what the next line asks of the kernel
        if parent:
            die_with_parent(parent, with_parent)

    output = log if isinstance(log, int) else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=env,
            cwd=cwd,
            start_new_session=start_new_session,
            pass_fds=pass_fds,
            preexec_fn=before,
        )
    finally:
        if not isinstance(log, int):
            os.close(output)


def state_and_parent(pid: int) -> tuple[str, int] | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return fields[0], int(fields[1])


def alive(pid: int) -> bool:
    found = state_and_parent(pid)
    return found is not None and found[0] not in "ZX"


def descendants(pid: int) -> set[int]:
    """The processes below `pid`, itself not included."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    parents = {each: found[1] for each in pids if (found := state_and_parent(each))}
    below = {pid}
    while more := {each for each, parent in parents.items() if parent in below} - below:
        below |= more
    return below - {pid}


def name_of(pid: int) -> str:
    """Return the name under which the system lists the process."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


class Terminal:
    """`shown`: what the terminal has shown so far, with what was echoed."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> None:
        self.shown = ""
        self._read = 0
        self._master, slave = pty.openpty()

        def own() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=env, cwd=cwd, start_new_session=True, preexec_fn=own
        )
        os.close(slave)

    def answer(self, question: str, text: str, *, hidden: bool = False) -> None:
        """Wait until `question` is shown, after the last one, and type `text` and Enter.

        `hidden`: the answer is not echoed. The program then drops what was typed before it had switched that off.
        """
        end = time.monotonic() + PATIENCE
        while question not in self.shown[self._read :]:
            assert time.monotonic() < end, f"{question!r} is not shown in: {self.shown}"
            assert self._receive(), f"ended before {question!r}: {self.shown}"
        self._read = self.shown.index(question, self._read) + len(question)
        while self._receive(0.0):  # all of the prompt, before what is echoed
            pass
        if hidden:
            eventually(lambda: not termios.tcgetattr(self._master)[3] & termios.ECHO, what=lambda: self.shown)
        os.write(self._master, f"{text}\n".encode())

    def end(self) -> int:
        """Wait for the end of the command, and return its exit code."""
        while self._receive():
            pass
        return self.process.wait(PATIENCE)

    def _receive(self, seconds: float = PATIENCE) -> bool:
        """Take what is shown next. Returns False for nothing in time, and at the end."""
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            found = os.read(self._master, 65536)
        except OSError:  # the last process has closed the terminal
            return False
        self.shown += found.decode(errors="replace").replace("\r\n", "\n")
        return bool(found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
