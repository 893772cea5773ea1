"""Threads that send. A send that hangs is abandoned, never joined: its thread is replaced, and ends with the process.

`concurrent.futures` waits for its threads at exit, which is just what must not happen here.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Pool:
    """Up to `size` daemon threads that run what is given to them, first come, first served.

    Threads start when they are needed, so a pool may be made before a fork.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = 0
        self._idle = threading.Semaphore(0)
        self.abandoned = 0

    def submit(self, work: Callable[[], None]) -> None:
        """Run `work` in one of the threads. It must not raise."""
        self._work.put(work)
        if not self._idle.acquire(blocking=False) and self._threads < self._size:
            self._threads += 1
            threading.Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()

    def abandon(self) -> None:
        """One of the threads hangs: let another take its place."""
        self.abandoned += 1
        self._threads -= 1

    def close(self) -> None:
        """Let the threads that are not busy end."""
        for _ in range(self._threads):
            self._work.put(None)
        self._threads = 0

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            self._idle.release()
