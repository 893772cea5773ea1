"""Workers that share a process wait together for what they have not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from receiver import wakeups
from receiver.runtime.process import Bell
from receiver.wakeups.record import queue_key
from receiver.wakeups.rq_worker import Stop, run_worker
from receiver.wakeups.shared_wait import SharedWait
from tests.servers.valkey import ValkeyProcess
from tests.support.waiting import PATIENCE, eventually
from tests.support.wakeups import FunctionBody

A, B = queue_key("deliver:a"), queue_key("deliver:b")


@pytest.fixture(autouse=True)
def _waits_until_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait ends by what these tests do, and not because its time is over."""
    monkeypatch.setattr("receiver.wakeups.shared_wait.POLL", 3600.0)
    monkeypatch.setattr("receiver.wakeups.shared_wait._AT_ONCE", PATIENCE)


class Waiter:
    """A thread that waits for one job of one queue."""

    def __init__(self, shared: SharedWait, queue: str) -> None:
        self.found: list[object] = []
        self.stop = Bell()
        self._shared = shared
        self._queue = queue
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.found.append(self._shared.wait(self._queue, self.stop, PATIENCE))
        except redis.RedisError as error:
            self.found.append(type(error).__name__)

    def get(self) -> object:
        self._thread.join(PATIENCE)
        return self.found[0]


def blocked(client: redis.Redis) -> list[str]:
    """The commands in which clients are blocked."""
    return [each["cmd"] for each in client.client_list() if "b" in each["flags"]]


@pytest.fixture
def shared(redis_url: str) -> SharedWait:
    return SharedWait(redis_url, "w")


def test_a_job_goes_to_the_worker_of_its_queue_and_the_others_go_on_waiting(
    shared: SharedWait, client: redis.Redis
) -> None:
    # Given two that wait, of which the second has come while the first was waiting
    first = Waiter(shared, A)
    eventually(lambda: blocked(client) == ["blpop"])
    second = Waiter(shared, B)
    eventually(lambda: asked(shared) == {A, B})
    assert blocked(client) == ["blpop"]
    # When a job comes for the second
    client.rpush(B, "job")
    # Then it is its, and that was all
    assert second.get() == b"job"
    assert not first.found
    client.rpush(A, "other")
    assert first.get() == b"other"


def asked(shared: SharedWait) -> frozenset[str]:
    return shared._asked


def test_what_comes_for_one_that_is_busy_is_left_to_other_processes(shared: SharedWait, client: redis.Redis) -> None:
    # Given two that waited, of which one has got a job
    busy, idle = Waiter(shared, A), Waiter(shared, B)
    eventually(lambda: asked(shared) == {A, B})
    client.rpush(A, "job")
    assert busy.get() == b"job"
    # When another one comes for the same queue, then it stays where it is
    eventually(lambda: asked(shared) == {B})
    client.rpush(A, "second")
    client.rpush(B, "last")
    assert idle.get() == b"last"
    assert client.lrange(A, 0, -1) == [b"second"]


def test_one_that_leaves_takes_no_job_with_it(shared: SharedWait, client: redis.Redis) -> None:
    waiter, other = Waiter(shared, A), Waiter(shared, B)
    eventually(lambda: asked(shared) == {A, B})
    waiter.stop.ring()
    assert waiter.get() is None
    assert not shared.leave(A)
    client.rpush(A, "job")
    client.rpush(B, "last")
    assert other.get() == b"last"
    assert client.lrange(A, 0, -1) == [b"job"]


def test_one_that_leaves_says_that_a_job_had_come_for_it(shared: SharedWait, client: redis.Redis) -> None:
    waiter = Waiter(shared, A)
    eventually(lambda: asked(shared) == {A})
    waiter.stop.ring()
    waiter.get()
    client.rpush(A, "job")
    eventually(lambda: not client.exists(A))
    assert shared.leave(A)


def test_all_hear_at_once_that_redis_is_gone(valkey_factory: Callable[..., ValkeyProcess]) -> None:
    server = valkey_factory()
    shared = SharedWait(server.url, "w")
    waiters = [Waiter(shared, queue) for queue in (A, B)]
    eventually(lambda: asked(shared) == {A, B})
    server.kill()
    assert [each.get() for each in waiters] == ["ConnectionError", "ConnectionError"]
    # When it is back, it is asked again
    server.start()
    again = Waiter(shared, A)
    client = server.connect()
    eventually(lambda: asked(shared) == {A})
    client.rpush(A, "job")
    assert again.get() == b"job"


# --- With workers


@pytest.fixture
def workers(
    redis_url: str, shared: SharedWait, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Callable[[Stop], None]]]:
    """Two workers that share a wait, each with a body that a test may replace; they have stopped at its end."""
    monkeypatch.setattr("receiver.wakeups.rq_worker._POLL", 0.1)
    bodies: dict[str, Callable[[Stop], None]] = {"deliver:a": lambda _: None, "deliver:b": lambda _: None}
    stops = {queue: Stop(wakeups.TIME_SLICE) for queue in bodies}

    def serve(queue: str) -> None:
        def run(stop: Any) -> None:
            bodies[queue](stop)
            with redis.Redis.from_url(redis_url) as mine:
                wakeups.lower_flag(mine, queue)

        body = FunctionBody(run, wakeups.JOB_TIMEOUT)
        run_worker(queue, body, redis_url, queue, stop=stops[queue], alarm=False, shared=shared)

    threads = [threading.Thread(target=serve, args=(queue,)) for queue in bodies]
    for each in threads:
        each.start()
    yield bodies
    for stop in stops.values():
        stop.ask()
    for each in threads:
        each.join(PATIENCE)
        assert not each.is_alive()


def test_workers_that_share_a_process_wait_with_one_command_and_a_wake_up_ends_it(
    workers: dict[str, Callable[[Stop], None]], shared: SharedWait, client: redis.Redis
) -> None:
    # Given two workers without work
    eventually(lambda: asked(shared) == {A, B})
    eventually(lambda: blocked(client) == ["blpop"])
    ran, free = threading.Event(), threading.Event()

    def body(_stop: Stop) -> None:
        ran.set()
        free.wait(PATIENCE)

    workers["deliver:b"] = body
    # When one is woken
    wakeups.wake(client, "deliver:b")
    # Then its job runs, and the other one waits on
    assert ran.wait(PATIENCE)
    eventually(lambda: asked(shared) == {A})
    free.set()
    # And afterwards both wait together again
    eventually(lambda: asked(shared) == {A, B})
