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
