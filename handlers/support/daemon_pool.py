"""Work in daemon threads: hung ones are abandoned, never joined, and end with the process.

`concurrent.futures` joins its threads at exit, so one hung send or read would hang the worker. Callers wait for results
with a deadline.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

from handlers.contract import Unavailable
from handlers.support.deadline import Deadline

log = logging.getLogger("runhook.sink")

# Grace seconds after the deadline: the work's own timeout names the cause.
GRACE = 1.0

T = TypeVar("T")
R = TypeVar("R")


def in_thread(name: str, work: Callable[[], T]) -> Future[T]:
    """Run `work` in a new daemon thread. The future gets its result or exception."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # no longer cancellable

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, name=_thread_name(name), daemon=True).start()
    return future


def _thread_name(name: str) -> str:
    """Return the name of a new thread, prefixed with the current thread's owner."""
    return f"{threading.current_thread().name.partition(' ')[0]} {name}"


class LeftBehind(Exception):
    """Raised by work whose thread was abandoned: the thread ends, because another replaced it."""


class DaemonPool:
    """At most `size` daemon threads that run submitted work in order.

    Threads start on demand, so a pool may be created before a fork. Thread-safe.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0  # submitted, unfinished work
        self.abandoned = 0  # abandoned threads that still hang

    def submit(self, work: Callable[[], None]) -> None:
        """Run `work` as soon as a thread is free. Its exceptions are only logged."""
        with self._lock:
            self._unfinished += 1
            self._work.put(work)
            # Don't count idle threads: one that has just taken work still looks idle.
            if self._threads < min(self._size, self._unfinished):
                name = _thread_name(f"{self._name}-{self._threads + 1}")
                # Raises if there are too many threads.
                threading.Thread(target=self._run, name=name, daemon=True).start()
                self._threads += 1

    def abandon(self) -> None:
        """Abandon one hung thread, and allow a replacement. Its work finally raises LeftBehind."""
        with self._lock:
            self.abandoned += 1
            self._threads -= 1

    def close(self) -> None:
        """Let the threads end when their work is done. Does not wait."""
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
            del work  # it may reference a buffer
            with self._lock:
                self._unfinished -= 1
                self.abandoned -= left_behind
            if left_behind:
                return


def run_all(items: Sequence[T], work: Callable[[T], R], threads: int, deadline: Deadline) -> list[R | Exception]:
    """Return what `work` returned or raised for each item, in order.

    Raises Unavailable at the deadline.
    """
    results: list[R | Exception | None] = [None] * len(items)
    numbers = iter(range(len(items)))
    lock = threading.Lock()

    def take_items() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            try:
                results[number] = work(items[number])
            except Exception as error:  # noqa: BLE001 - returned in the place of a result
                results[number] = error

    futures = [in_thread("fetch", take_items) for _ in range(min(threads, len(items)))]
    if wait(futures, max(0.0, deadline.at + GRACE - time.monotonic())).not_done:
        raise Unavailable(f"not done within {deadline.seconds:g} s")
    return [result for result in results if result is not None]
