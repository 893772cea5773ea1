"""A pool of daemon threads."""

from __future__ import annotations

import threading

from handlers.support.daemon_pool import DaemonPool
from tests.support.waiting import eventually


def test_a_pool_never_has_more_threads_than_its_size_and_ends_them() -> None:
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


def test_work_that_blocks_keeps_no_other_from_a_thread_while_there_is_room() -> None:
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
                assert started.acquire(timeout=10), "a task got no thread"
        finally:
            release.set()
            pool.close()
