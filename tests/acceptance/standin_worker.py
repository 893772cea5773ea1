"""`runhook worker` with stand-in bodies: the real supervisor, children, queues and ledger, and work that a test orders.

    python -m tests.acceptance.standin_worker REDIS_URL DATA_DIRECTORY STOP_TIMEOUT JOB_TIMEOUT QUEUE...

An order is a JSON object in the list orders:<queue>. It leaves the list when it is done, as an event leaves the inbox.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

from receiver import wakeups, worker
from receiver.config.settings import Settings
from receiver.errors import NotStarted
from receiver.runtime import redis_client
from receiver.telemetry import logs
from receiver.wakeups.rq_worker import Stop


class StandIn(wakeups.JobBody):
    """A body that does what the first order of its queue says."""

    job_timeout = 0.0
    worn_out = False

    def __init__(self, queue: str, url: str, job_timeout: float, owner: str) -> None:
        self.queue = queue
        self.client = redis_client.connect(url, timeout=5.0, connect_timeout=2.0, retries=0)
        self.nudges = wakeups.NudgeWait(self.client, queue)
        self.job_timeout = job_timeout
        if self.client.get(f"refuse:{queue}"):
            raise NotStarted(f"the sink of {queue} can't be built")
        self.client.hset("pids", queue, os.getpid())
        self.client.hset("owners", queue, owner)

    def run(self, stop: Callable[[], bool]) -> None:
        while not stop():
            order = self.client.lindex(f"orders:{self.queue}", 0)
            if order is not None:
                self.obey(json.loads(order), stop)
                self.client.lpop(f"orders:{self.queue}")
            elif not self.nudges.wait(min(0.3, stop_left(stop))):
                break
        wakeups.finish(self.client, self.queue, lambda: bool(self.client.llen(f"orders:{self.queue}")))

    def obey(self, order: dict[str, Any], stop: Callable[[], bool]) -> None:
        first = self.client.incr(f"tries:{order['id']}") == 1
        self.client.rpush(f"began:{self.queue}", order["id"])
        if first and "sleep" in order:
            time.sleep(order["sleep"])
        while first and "hold" in order and not self.client.exists(f"release:{order['id']}"):
            time.sleep(0.02)
        if first and "hang" in order:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})  # as code in C that no handler interrupts
            time.sleep(order["hang"])
        if first and "exit" in order:
            os._exit(order["exit"])
        if first and "wear_out" in order:
            self.worn_out = True
        self.client.rpush(f"done:{self.queue}", f"{order['id']} {time.time()}")

    def close(self) -> None:
        self.client.close()


def stop_left(stop: Callable[[], bool]) -> float:
    return stop.left if isinstance(stop, Stop) else 0.3


def main() -> int:
    url, data, stop_timeout, job_timeout, *queues = sys.argv[1:]
    logs.set_up()
    settings = Settings.from_env({"REDIS_URL": url, "RUNHOOK_DATA": data})
    config: Any = SimpleNamespace(sinks={}, destinations=[], durable_ledger=True)
    made = {queue: partial(StandIn, queue, url, float(job_timeout)) for queue in queues}
    return worker.run(settings, config, stop_timeout=float(stop_timeout), patience=3, build=lambda *_: dict(made))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NotStarted as error:
        sys.exit(f"runhook: {error}")
