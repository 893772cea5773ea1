"""Work in threads with a deadline, which never waits for one that hangs."""

from __future__ import annotations

import threading

import pytest

from handlers.contract import Unavailable
from handlers.mirror.fan_out import FanOut, run_within
from handlers.support.daemon_pool import DaemonPool
from handlers.support.deadline import Deadline
from tests.support.waiting import Stopwatch


def test_results_keep_the_order_and_errors_are_among_them() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number * 2

    pool = DaemonPool(4, "test")
    results = FanOut(range(50), work).run(pool, 8, Deadline(10))
    pool.close()
    assert isinstance(results[3], ValueError)
    assert [result for number, result in enumerate(results) if number != 3] == [n * 2 for n in range(50) if n != 3]


def test_the_caller_works_alone_when_the_pool_is_busy_and_leaves_what_hangs() -> None:
    release = threading.Event()
    pool = DaemonPool(1, "test")
    pool.submit(lambda: release.wait(30) and None)
    assert FanOut(range(5), lambda number: number).run(pool, 4, Deadline(10)) == [0, 1, 2, 3, 4]
    hung = DaemonPool(1, "test")
    first = threading.Event()

    def work(number: int) -> int:
        if threading.current_thread() is not main:
            first.set()
            release.wait(30)
        else:
            first.wait(30)
        return number

    main = threading.current_thread()
    watch = Stopwatch()
    with pytest.raises(Unavailable):
        FanOut(range(2), work).run(hung, 1, Deadline(0.2))
    watch.at_most(10)
    release.set()
    pool.close()
    hung.close()


def test_run_within_returns_raises_or_gives_up() -> None:
    release = threading.Event()
    assert run_within(Deadline(10), lambda: 7) == 7
    with pytest.raises(KeyError):
        run_within(Deadline(10), lambda: {}["x"])
    with pytest.raises(Unavailable, match=r"not done within 0\.1 s"):
        run_within(Deadline(0.1), lambda: release.wait(30))
    release.set()
