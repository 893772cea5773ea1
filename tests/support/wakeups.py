"""A worker of one queue, served in the test's own process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import redis

from receiver.domain.time_limits import JOB_TIMEOUT
from receiver.runtime.stop import StopRequests
from receiver.wakeups import worker
from tests.support.waiting import PATIENCE

QUEUE = "deliver:ops"


class Stop(StopRequests):
    """A stop that the work asks for."""

    def ask(self) -> None:
        self()


def serve(
    url: str,
    work: Callable[[Stop], None],
    *,
    name: str = "w",
    seconds: float = PATIENCE,
    job_timeout: int = JOB_TIMEOUT,
) -> None:
    """Run a worker until its work asks it to stop; fail when it does not within `seconds`."""
    stop, late = Stop(), threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def give_up() -> None:
        late.set()
        stop.ask()
        signal.raise_signal(signal.SIGTERM)

    timer = threading.Timer(seconds, give_up)
    timer.start()
    try:
        worker.serve(QUEUE, url, name, lambda: work(stop), stop, job_timeout)
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert not late.is_set(), f"the worker did not end within {seconds} s"


def queued(client: redis.Redis) -> int:
    return int(client.llen(f"rq:queue:{QUEUE}"))
