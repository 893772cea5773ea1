"""A pool of daemon threads."""

from __future__ import annotations

import threading

from handlers.support.daemon_pool import DaemonPool
from tests.support.waiting import eventually


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
                assert started.acquire(timeout=10), "a task got no thread"
        finally:
            release.set()
            pool.close()
