"""A command on a terminal of its own, with a person's answers."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.support.waiting import PATIENCE, eventually


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
