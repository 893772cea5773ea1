"""Work in threads with a deadline, which never waits for a thread that hangs."""

from __future__ import annotations

import threading

import pytest

from handlers.contract import Unavailable
from handlers.mirror.fan_out import run_all, run_within
from handlers.support.deadline import Deadline
from tests.support.waiting import Stopwatch


def test_results_keep_the_order_and_errors_are_among_them() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number * 2

    results = run_all(range(50), work, 8, Deadline(10))
    assert isinstance(results[3], ValueError)
    assert [result for number, result in enumerate(results) if number != 3] == [n * 2 for n in range(50) if n != 3]


def test_work_that_hangs_is_left_behind() -> None:
    release = threading.Event()
    watch = Stopwatch()
    with pytest.raises(Unavailable):
        run_all(range(2), lambda _: release.wait(30), 2, Deadline(0.2))
    watch.at_most(10)
    release.set()


def test_run_within_returns_raises_or_gives_up() -> None:
    release = threading.Event()
    assert run_within(Deadline(10), lambda: 7) == 7
    with pytest.raises(KeyError):
        run_within(Deadline(10), lambda: {}["x"])
    with pytest.raises(Unavailable, match=r"not done within 0\.1 s"):
        run_within(Deadline(0.1), lambda: release.wait(30))
    release.set()
