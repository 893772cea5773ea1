"""Work on many files at once, never waited for longer than there is time: what hangs is left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from handlers.contract import Unavailable
from handlers.support.daemon_pool import DaemonPool
from handlers.support.guarded_client import Deadline

LAST_WORDS = 1.0
"""Seconds after the deadline in which those who waited then may say for whom: a mere time-out knows no culprit."""

T = TypeVar("T")
R = TypeVar("R")


class Crew(Generic[T, R]):
    """Work on many items, by the calling thread and by helpers from a pool where it has some to spare.

    The caller works too, so a busy pool delays nobody for ever and no run waits behind another's whole list.
    """

    def __init__(self, items: Sequence[T], work: Callable[[T], R]) -> None:
        self._items = items
        self._work = work
        self._results: list[R | Exception | None] = [None] * len(items)
        self._next = 0
        self._left = len(items)
        self._change = threading.Condition()

    def run(self, pool: DaemonPool, helpers: int, deadline: Deadline) -> list[R | Exception]:
        """What `work` returned or raised for each item, in order. Raises Unavailable for those that overstay."""
        deadline = deadline.later(LAST_WORDS)
        for _ in range(min(helpers, len(self._items) - 1)):
            pool.submit(self._help)
        self._help()
        with self._change:
            try:
                while self._left:
                    self._change.wait(deadline.left())
            finally:
                self._next = len(self._items)  # helpers that come late find nothing to begin
        return [result for result in self._results if result is not None]

    def _help(self) -> None:
        while True:
            with self._change:
                index = self._next
                if index >= len(self._items):
                    return
                self._next += 1
            try:
                result: R | Exception = self._work(self._items[index])
            except Exception as error:  # noqa: BLE001 - handed to the caller with its place
                result = error
            with self._change:
                self._results[index] = result
                self._left -= 1
                self._change.notify_all()


def within(deadline: Deadline, work: Callable[[], R]) -> R:
    """What `work` returns or raises, done in a thread of its own. Raises Unavailable when it overstays the deadline."""
    results: list[R] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=run, name="send", daemon=True).start()
    if not done.wait(deadline.later(LAST_WORDS).left()):
        raise Unavailable(f"not done within {deadline.seconds:g} s")
    if errors:
        raise errors[0]
    return results[0]
