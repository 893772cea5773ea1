"""Run work in threads with a deadline: a thread that hangs is left behind, never joined."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from typing import Generic, TypeVar

from handlers.contract import Unavailable
from handlers.support.daemon_pool import DaemonPool, in_thread
from handlers.support.deadline import Deadline

# Seconds past the deadline that we wait for the work itself to time out, since its error says whose fault it is.
GRACE = 1.0

T = TypeVar("T")
R = TypeVar("R")


class FanOut(Generic[T, R]):
    """Work on many items in the calling thread and in threads of a pool that are free.

    The caller takes items too, so a run makes progress even when the pool is busy with other runs.
    """

    def __init__(self, items: Sequence[T], work: Callable[[T], R]) -> None:
        self._items = items
        self._work = work
        self._results: list[R | Exception | None] = [None] * len(items)
        self._next = 0
        self._left = len(items)
        self._change = threading.Condition()

    def run(self, pool: DaemonPool, threads: int, deadline: Deadline) -> list[R | Exception]:
        """Return what `work` returned or raised for each item, in order.

        `threads`: how many of the pool may join. Raises DeadlineExceeded when some item is not done by then.
        """
        deadline = deadline.extended(GRACE)
        for _ in range(min(threads, len(self._items) - 1)):
            pool.submit(self._take_items)
        self._take_items()
        with self._change:
            try:
                while self._left:
                    self._change.wait(deadline.remaining())
            finally:
                self._next = len(self._items)  # threads that start late find no item
        return [result for result in self._results if result is not None]

    def _take_items(self) -> None:
        while True:
            with self._change:
                index = self._next
                if index >= len(self._items):
                    return
                self._next += 1
            try:
                result: R | Exception = self._work(self._items[index])
            except Exception as error:  # noqa: BLE001 - returned in the place of a result
                result = error
            with self._change:
                self._results[index] = result
                self._left -= 1
                self._change.notify_all()


def run_within(deadline: Deadline, work: Callable[[], R]) -> R:
    """Return or raise what `work` does, run in a thread of its own. Raises Unavailable if it outlasts the deadline."""
    future = in_thread("send", work)
    if not wait([future], deadline.extended(GRACE).remaining()).done:
        raise Unavailable(f"not done within {deadline.seconds:g} s")
    return future.result()
