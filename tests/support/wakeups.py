"""A worker of one queue, served in the test's own process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import redis
import redis.asyncio

from receiver import wakeups
from receiver.wakeups.record import JOB_TIMEOUT
from receiver.wakeups.rq_worker import Stop, run_worker
from tests.support.waiting import PATIENCE

QUEUE = "deliver:ops"
LANE = f"rq:queue:{QUEUE}:intermediate"


class FunctionBody(wakeups.JobBody):
    """A job's body that is a function."""

    job_timeout = 0.0

    def __init__(self, function: Callable[[Stop], None], job_timeout: float) -> None:
        self.function = function
        self.job_timeout = job_timeout

    def run(self, stop: Callable[[], bool]) -> None:
        self.function(cast("Stop", stop))

    def close(self) -> None:
        """There is nothing to close."""


def serve(
    url: str,
    body: Callable[[Stop], None],
    *,
    name: str = "w",
    seconds: float = PATIENCE,
    timeout: float = JOB_TIMEOUT,
    **options: Any,
) -> None:
    """Run a worker until its body asks it to stop; fail when it does not within `seconds`."""
    stop = Stop(wakeups.TIME_SLICE)
    late = threading.Event()

    def give_up() -> None:
        late.set()
        stop.ask()

    timer = threading.Timer(seconds, give_up)
    timer.start()
    try:
        run_worker(QUEUE, FunctionBody(body, timeout), url, name, stop=stop, **options)
    finally:
        timer.cancel()
    assert not late.is_set(), f"the worker did not come to an end within {seconds} s"


def once(stop: Stop) -> None:
    stop.ask()


def queued(client: redis.Redis) -> int:
    return int(client.llen(f"rq:queue:{QUEUE}"))


def client_url(client: redis.Redis) -> str:
    options = client.connection_pool.connection_kwargs
    return f"redis://{options['host']}:{options['port']}/{options['db']}"
