"""A server in a process of its own that a test starts, kills, hangs and starts again."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Self

from tests.servers.warm_python import Process
from tests.support.waiting import eventually


class ServerProcess:
    """Its port and directory stay the same over restarts. A subclass says how it is launched, and when it answers."""

    process: Process | None = None

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def launch(self) -> Process:
        """Start it without waiting for anything."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether it serves clients."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        assert self.process is not None, "the server was not started"
        return self.process.pid

    @property
    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> Self:
        """Start, or start again on what is in the directory. Returns when it answers."""
        assert self.process is None or self.process.poll() is not None, "the server runs already"
        process = self.process = self.launch()
        try:
            eventually(lambda: process.poll() is not None or self.answers(), every=0.01, what=lambda: self.log[-3000:])
            assert process.poll() is None, f"the server did not start:\n{self.log[-3000:]}"
        except AssertionError:
            self.kill()
            raise
        return self

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def restart(self) -> Self:
        """kill -9 and start again on the same port and data."""
        self.kill()
        return self.start()

    def hang(self) -> None:
        """SIGSTOP: connections stay open, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after `hang`."""
        os.kill(self.pid, signal.SIGCONT)
