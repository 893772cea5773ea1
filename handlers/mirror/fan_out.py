"""Run work in daemon threads until a deadline: a thread that hangs is left behind, never joined."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from typing import TypeVar

from handlers.contract import Unavailable
from handlers.support.daemon_pool import in_thread
from handlers.support.deadline import Deadline

# Seconds past the deadline in which the work itself may time out, since its error names the cause.
GRACE = 1.0

T = TypeVar("T")
R = TypeVar("R")


def run_all(items: Sequence[T], work: Callable[[T], R], threads: int, deadline: Deadline) -> list[R | Exception]:
    """Return what `work` returned or raised for each item, in order.

    Raises Unavailable when an item is not done by the deadline.
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
    if wait(futures, _patience(deadline)).not_done:
        raise Unavailable(f"not done within {deadline.seconds:g} s")
    return [result for result in results if result is not None]


def run_within(deadline: Deadline, work: Callable[[], R]) -> R:
    """Return or raise what `work` does, run in a thread of its own. Raises Unavailable if it outlasts the deadline."""
    future = in_thread("send", work)
    if not wait([future], _patience(deadline)).done:
        raise Unavailable(f"not done within {deadline.seconds:g} s")
    return future.result()


def _patience(deadline: Deadline) -> float:
    return max(0.0, deadline.at + GRACE - time.monotonic())
