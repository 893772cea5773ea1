"""The worker as real processes that are killed, hung and stopped: work goes on, and nobody is left behind."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from receiver.wakeups import wake
from tests.servers import warm_python
from tests.servers.valkey import ValkeyProcess
from tests.support.processes import alive
from tests.support.waiting import PATIENCE, Stopwatch, eventually

QUEUES = ("dispatch", "deliver:ops")
MOMENT = 10
"""Seconds of a recovery, which takes one or two; 30 are promised."""


class Worker:
    """The stand-in worker, and the orders that it gets."""

    def __init__(self, url: str, directory: Path, *, stop_timeout: float = 10, job_timeout: float = 30) -> None:
        directory.mkdir(exist_ok=True)
        self.log_path = directory / "worker.log"
        self.client = redis.Redis.from_url(url, decode_responses=True)
        arguments = [url, str(directory), str(stop_timeout), str(job_timeout), *QUEUES]
        self.process = warm_python.start(["-m", "tests.acceptance.standin_worker", *arguments], self.log_path)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def serving(self) -> bool:
        return len(self.client.hgetall("pids")) == len(QUEUES)

    def pid(self, queue: str) -> int:
        return int(self.client.hget("pids", queue) or 0)

    def ready(self) -> Worker:
        eventually(lambda: self.serving or self.process.poll() is not None, what=lambda: f"children\n{self.log}")
        assert self.process.poll() is None, self.log
        return self

    def order(self, queue: str, name: str, **what: float) -> None:
        self.client.rpush(f"orders:{queue}", json.dumps({"id": name, **what}))
        wake(self.client, queue)

    def began(self, queue: str) -> list[str]:
        return list(self.client.lrange(f"began:{queue}", 0, -1))

    def done(self, queue: str) -> list[str]:
        return [line.split()[0] for line in self.client.lrange(f"done:{queue}", 0, -1)]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.client.close()


@pytest.fixture
def start(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def it(url: str = redis_url, **options: float) -> Worker:
        workers.append(Worker(url, tmp_path / "data", **options))
        return workers[-1].ready()

    yield it
    for worker in workers:
        worker.end()


# --- Kills and stops


def test_each_queue_has_a_process_of_its_own_and_work_is_done(start: Callable[..., Worker]) -> None:
    worker = start()
    assert worker.pid("dispatch") != worker.pid("deliver:ops") != worker.process.pid
    for queue in QUEUES:
        worker.order(queue, f"for {queue.replace(':', '-')}")
    eventually(lambda: all(worker.done(queue) for queue in QUEUES))


def test_kill_9_of_a_child_in_the_middle_of_its_job_costs_a_moment(
    start: Callable[..., Worker],
) -> None:
    # Given a child in the middle of a job, and a neighbour
    worker = start()
    neighbour = worker.pid("dispatch")
    worker.order("deliver:ops", "long", sleep=20)
    eventually(lambda: worker.began("deliver:ops"))
    # When it is killed
    os.kill(worker.pid("deliver:ops"), signal.SIGKILL)
    # Then another takes the work up again with nobody's help, and the neighbour never noticed
    watch = Stopwatch()
    eventually(lambda: worker.done("deliver:ops") == ["long"])
    print(f"{watch.seconds:.2f}", "seconds from kill -9 to work done")
    watch.at_most(MOMENT)
    assert worker.pid("dispatch") == neighbour
    assert "deliver:ops: killed by signal 9 (starts again in 0.0 s)" in worker.log
    eventually(lambda: worker.client.zcard("rq:wip:deliver:ops") == 0)


def test_kill_9_of_the_supervisor_leaves_no_orphan(start: Callable[..., Worker]) -> None:
    worker = start()
    pids = [worker.pid(queue) for queue in QUEUES]
    worker.order("deliver:ops", "long", sleep=20)
    eventually(lambda: worker.began("deliver:ops"))
    worker.process.kill()
    eventually(lambda: not any(alive(pid) for pid in pids))


def test_sigterm_lets_the_running_job_end_and_exits_0(start: Callable[..., Worker]) -> None:
    worker = start()
    pids = [worker.pid(queue) for queue in QUEUES]
    worker.order("deliver:ops", "short", hold=1)
    worker.order("deliver:ops", "next")
    eventually(lambda: worker.began("deliver:ops"))
    worker.process.terminate()
    eventually(lambda: not alive(worker.pid("dispatch")))  # it has nothing to do: the stop has reached it
    worker.client.set("release:short", 1)
    assert worker.process.wait(PATIENCE) == 0
    assert worker.done("deliver:ops") == ["short"]
    assert worker.client.llen("rq:queue:deliver:ops") == 1  # what was not done is on its way to the next worker
    assert not any(alive(pid) for pid in pids)
    assert worker.client.zcard("rq:wip:deliver:ops") == 0


def test_a_signal_while_idle_ends_every_child_by_itself(start: Callable[..., Worker]) -> None:
    worker = start()
    worker.process.send_signal(signal.SIGINT)
    assert worker.process.wait(PATIENCE) == 0  # 1 where a child had to be killed


def test_a_job_that_does_not_end_in_time_is_killed_at_the_stop_and_handed_back(start: Callable[..., Worker]) -> None:
    worker = start(stop_timeout=0.5)
    pids = [worker.pid(queue) for queue in QUEUES]
    worker.order("deliver:ops", "long", sleep=20)
    eventually(lambda: worker.began("deliver:ops"))
    worker.process.terminate()
    assert worker.process.wait(PATIENCE) == 1
    assert not any(alive(pid) for pid in pids)
    assert "did not end within 0.5 s" in worker.log
    assert worker.client.zcard("rq:wip:deliver:ops") == 0
    assert worker.client.llen("rq:queue:deliver:ops") == 1


def test_a_second_signal_a_second_later_does_not_wait(start: Callable[..., Worker]) -> None:
    worker = start(stop_timeout=600)
    worker.order("deliver:ops", "long", sleep=20)
    eventually(lambda: worker.began("deliver:ops"))
    worker.process.terminate()
    worker.process.terminate()  # as a terminal and whatever runs us may do at once
    time.sleep(1.1)
    assert worker.process.poll() is None
    worker.process.terminate()
    assert worker.process.wait(PATIENCE) == 1  # 0 after the job's end
    assert "deliver:ops: a second signal came; killing process" in worker.log


# --- Jobs that take too long


def test_a_job_that_no_alarm_can_interrupt_is_killed_and_its_work_done_again(
    start: Callable[..., Worker],
) -> None:
    worker = start(job_timeout=1)
    hung = worker.pid("deliver:ops")
    worker.order("deliver:ops", "hung", hang=60)
    eventually(lambda: worker.began("deliver:ops"))
    watch = Stopwatch()
    eventually(lambda: worker.done("deliver:ops") == ["hung"])
    print(f"{watch.seconds:.2f}", "seconds from the start of a job that hangs for ever, time-out 1 s, to work done")
    watch.at_most(MOMENT)
    assert not alive(hung)
    assert "deliver:ops: a job outlives its timeout; killing process" in worker.log


def test_a_job_that_sleeps_past_its_timeout_is_cut_off_without_a_kill(start: Callable[..., Worker]) -> None:
    worker = start(job_timeout=1)
    pid = worker.pid("deliver:ops")
    worker.order("deliver:ops", "slow", sleep=20)
    eventually(lambda: "cut off" in worker.log)
    worker.order("deliver:ops", "next")  # the clock would wake it
    eventually(lambda: worker.done("deliver:ops") == ["slow", "next"])
    assert worker.pid("deliver:ops") == pid


# --- Children that end by themselves


def test_a_child_in_a_crash_loop_backs_off_and_delays_nobody_else(start: Callable[..., Worker]) -> None:
    worker = start()
    worker.client.set("refuse:deliver:ops", 1)
    os.kill(worker.pid("deliver:ops"), signal.SIGKILL)
    eventually(lambda: "3 times in a row" in worker.log or worker.log.count("can't be built") >= 1)
    time.sleep(1.5)
    lines = [line for line in worker.log.splitlines() if "can't be built" in line]
    assert len(lines) == 1
    assert "the sink of deliver:ops can't be built (2 times in a row, starts again in 0.2 s)" in lines[0]
    worker.order("dispatch", "meanwhile")
    eventually(lambda: worker.done("dispatch"))
    worker.client.delete("refuse:deliver:ops")
    worker.order("deliver:ops", "after all")
    eventually(lambda: worker.done("deliver:ops"))


def test_a_body_that_is_worn_out_gets_a_fresh_process(start: Callable[..., Worker]) -> None:
    worker = start()
    pid = worker.pid("deliver:ops")
    worker.order("deliver:ops", "last", wear_out=1)
    eventually(lambda: worker.pid("deliver:ops") != pid)
    worker.order("deliver:ops", "first")
    eventually(lambda: worker.done("deliver:ops") == ["last", "first"])
    assert "a fresh process takes over" in worker.log


# --- Redis away


@pytest.mark.parametrize("fault", ["killed", "hung"])
def test_work_goes_on_soon_after_redis_is_back(
    fault: str,
    start: Callable[..., Worker],
    valkey_factory: Callable[..., ValkeyProcess],
) -> None:
    # Given a worker in the middle of a job
    server = valkey_factory()
    worker = start(server.url)
    pids = [worker.pid(queue) for queue in QUEUES]
    worker.order("deliver:ops", "before", sleep=1)
    eventually(lambda: worker.began("deliver:ops"))
    # When Redis is away, and when it hangs for longer than any time-out in the worker
    if fault == "killed":
        server.kill()
        time.sleep(2)
        server.start()
    else:
        server.hang()
        time.sleep(6)
        server.resume()
    # Then the same processes do old and new work within seconds of its return
    watch = Stopwatch()
    worker.order("dispatch", "after")
    eventually(lambda: worker.done("dispatch") == ["after"])
    # A server that hung runs what it had received, also from a client that gave up: "before" may be done twice.
    eventually(
        lambda: set(worker.done("deliver:ops")) == {"before"} and not worker.client.llen("orders:deliver:ops"),
        what=lambda: worker.log,
    )
    print(f"{watch.seconds:.2f}", f"seconds from the return of a Redis that was {fault} to work done")
    watch.at_most(MOMENT)
    assert all(alive(pid) for pid in pids)


def test_a_missing_redis_is_waited_for_and_then_given_up_in_one_line(tmp_path: Path) -> None:
    worker = Worker("redis://127.0.0.1:1/0", tmp_path)
    try:
        assert worker.process.wait(PATIENCE) == 1
        waiting, given_up = worker.log.splitlines()
        assert "WARNING runhook.worker msg=\"Redis can't be used (redis://127.0.0.1:1/0)" in waiting
        assert given_up.startswith("runhook: Redis can't be used (redis://127.0.0.1:1/0): ")
        assert given_up.endswith("; start it, or fix REDIS_URL")
    finally:
        worker.end()


def test_a_worker_that_starts_before_its_redis_needs_no_second_start(
    tmp_path: Path, valkey_factory: Callable[..., ValkeyProcess]
) -> None:
    server = valkey_factory()
    server.kill()
    worker = Worker(server.url, tmp_path)
    try:
        eventually(lambda: "waiting for it" in worker.log)
        server.start()
        worker.ready()
    finally:
        worker.end()
