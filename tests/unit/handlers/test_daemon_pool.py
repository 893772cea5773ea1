"""Work in daemon threads, which never waits for one that hangs."""

import threading

import pytest

from handlers.contract import Unavailable
from handlers.support.daemon_pool import DaemonPool, run_all
from handlers.support.deadline import Deadline
from tests.support.waiting import Stopwatch, eventually


def test_pool_limits_and_ends_its_threads() -> None:
    before = threading.active_count()
    pool = DaemonPool(3, "test")
    done = threading.Semaphore(0)
    for _ in range(100):
        pool.submit(done.release)
    for _ in range(100):
        assert done.acquire(timeout=120)
    assert threading.active_count() - before <= 3
    pool.close()
    eventually(lambda: threading.active_count() <= before)


def test_blocked_work_leaves_other_threads_free() -> None:
    for used in range(200):  # of a pool that counts idle threads, every tenth failed
        pool, release, started = DaemonPool(8, "test"), threading.Event(), threading.Semaphore(0)
        for _ in range(used % 8):
            pool.submit(started.release)
        for _ in range(used % 8):
            assert started.acquire(timeout=120)
        for _ in range(8):
            pool.submit(lambda started=started, release=release: (started.release(), release.wait()))  # type: ignore[misc]
        try:
            for _ in range(8):
                assert started.acquire(timeout=120), "a task got no thread"
        finally:
            release.set()
            pool.close()


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
