"""One process with a log, and whoever restarts it when it has ended."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from receiver.runtime.child import die_with_parent
from tests.support.paths import ROOT

RESTART_AFTER: Final = 0.5
"""Seconds after which a part that ended by itself is started again, as a process manager would."""


class Program:
    """One process with a log. It stays the same over restarts."""

    def __init__(
        self, name: str, folder: Path, command: Sequence[str], environment: dict[str, str], *, piped: bool = False
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = [sys.executable, *command]
        kept = {each: os.environ[each] for each in ("PATH", "HOME", "LANG", "TMPDIR") if each in os.environ}
        self._environment = {**kept, "PYTHONPATH": str(ROOT), **environment}
        self._piped = piped
        self.process: subprocess.Popen[bytes] | None = None
        self.wanted = False
        self.due = 0.0
        self.starts = 0

    def start(self) -> None:
        """Start it without waiting for anything."""
        assert not self.running, f"{self.name} runs already"
        parent = os.getpid()
        self.wanted, self.due = True, 0.0
        self.starts += 1
        pipe = subprocess.PIPE if self._piped else None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=ROOT,
                stdin=pipe or subprocess.DEVNULL,
                stdout=pipe or log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(parent),
            )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} was not started"
        return self.process.pid

    def children(self) -> list[int]:
        """Process ids of its children, in the order in which they were started."""
        try:
            return [int(word) for word in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except OSError:
            return []

    def kill(self) -> None:
        """kill -9; its children follow, as they asked the kernel for it. Returns when it is gone."""
        self.wanted = False
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self, seconds: float = 25) -> int:
        """SIGTERM; the exit code, or -9 when it had to be killed."""
        self.wanted = False
        if self.process is None:
            return 0
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        self.kill()
        return -9

    def tell(self, line: str) -> None:
        """A line on its stdin."""
        assert self.process is not None, f"{self.name} was not started"
        assert self.process.stdin is not None, f"{self.name} takes no commands"
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def supervise(self) -> None:
        """Start it again if it has ended by itself a moment ago."""
        if not self.wanted or self.running:
            return
        now = time.monotonic()
        if not self.due:
            self.due = now + RESTART_AFTER
        elif now >= self.due:
            self.start()
