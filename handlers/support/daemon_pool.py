"""A pool of daemon threads: one that hangs is left behind, never joined, and ends with the process.

`concurrent.futures` joins its threads when the interpreter ends, so one hung send or read would hang the whole worker.
Callers that wait for a result do so with their own deadline.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

log = logging.getLogger("runhook.sink")

T = TypeVar("T")


def in_thread(name: str, work: Callable[[], T]) -> Future[T]:
    """Run `work` in a daemon thread of its own. The future has its result, or whatever it raises."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # it can't be taken back any more

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, name=_named(name), daemon=True).start()
    return future


def _named(name: str) -> str:
    """Return the name of a new thread: before it, that of whose work it does, as the present thread's name begins."""
    return f"{threading.current_thread().name.partition(' ')[0]} {name}"


class LeftBehind(Exception):
    """Raised by work whose thread was abandoned meanwhile: the thread ends, for another has its place."""


class DaemonPool:
    """At most `size` daemon threads that run submitted work in order.

    Threads start when there is work, so a pool may be made before a fork. Safe to use from many threads.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0  # submitted work that has not returned; what hangs is counted for ever
        self.abandoned = 0

    def submit(self, work: Callable[[], None]) -> None:
        """Run `work` as soon as a thread is free. It should not raise: that would only be logged."""
        with self._lock:
            self._unfinished += 1
            self._work.put(work)
            # Not the idle threads: one that has just taken its work would still count as idle.
            if self._threads < min(self._size, self._unfinished):
                name = _named(f"{self._name}-{self._threads + 1}")
                threading.Thread(target=self._run, name=name, daemon=True).start()  # raises where there are too many
                self._threads += 1

    def abandon(self) -> None:
        """Give up on one thread that hangs, and allow another in its place. Its work raises LeftBehind at its end."""
        with self._lock:
            self.abandoned += 1
            self._threads -= 1

    def close(self) -> None:
        """Let the threads end when their work is done. Waits for none of them."""
        with self._lock:
            for _ in range(self._threads):
                self._work.put(None)
            self._threads = 0

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            left_behind = False
            try:
                work()
            except LeftBehind:
                left_behind = True
            except Exception as error:
                log.error("background.failed thread=%s error=%s", self._name, type(error).__name__)
                log.debug("background.failed thread=%s in full", self._name, exc_info=True)
            del work  # it may hold a buffer
            with self._lock:
                self._unfinished -= 1
            if left_behind:
                return
