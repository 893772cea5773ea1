"""Wake-ups against a real Valkey: none is lost, and none comes twice."""

from __future__ import annotations

import threading
import time

import pytest
import redis
import redis.asyncio

from receiver import wakeups
from receiver.runtime import redis_client
from receiver.wakeups import flag_key
from tests.support.inbox import QUEUE, Stop, queued, serve_queue

# --- Waking


def test_only_the_first_of_many_wake_ups_is_enqueued(client: redis.Redis) -> None:
    assert [wakeups.wake(client, QUEUE) for _ in range(3)] == [True, False, False]
    assert queued(client) == 1
    assert 0 < client.ttl(flag_key(QUEUE)) <= wakeups.FLAG_TTL


def test_a_lowered_flag_lets_the_next_wake_up_through(client: redis.Redis) -> None:
    wakeups.wake(client, QUEUE)
    client.delete(f"rq:queue:{QUEUE}")  # as a worker takes it
    assert not wakeups.wake(client, QUEUE)
    client.delete(flag_key(QUEUE))
    assert wakeups.wake(client, QUEUE)


def test_expired_flag_with_a_waiting_job_adds_no_second(client: redis.Redis) -> None:
    wakeups.wake(client, QUEUE)
    client.delete(flag_key(QUEUE))
    assert not wakeups.wake(client, QUEUE)
    assert queued(client) == 1


async def test_a_wake_up_travels_in_a_transaction_of_an_async_client(redis_url: str, client: redis.Redis) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as ingest, ingest.pipeline(transaction=True) as pipeline:
        pipeline.xadd("stream", {"a": "b"})
        pipeline.execute_command(*wakeups.wake_command("dispatch"))
        assert (await pipeline.execute())[1] == 1
    assert client.llen("rq:queue:dispatch") == 1


def test_finish_wakes_again_for_work_before_the_flag_fell(client: redis.Redis) -> None:
    client.set(flag_key(QUEUE), 1, ex=wakeups.FLAG_TTL)
    assert wakeups.finish(client, QUEUE, lambda: True)
    assert queued(client) == 1


def test_finish_leaves_the_flag_down_when_there_is_nothing(client: redis.Redis) -> None:
    client.set(flag_key(QUEUE), 1, ex=wakeups.FLAG_TTL)
    assert not wakeups.finish(client, QUEUE, lambda: False)
    assert client.exists(flag_key(QUEUE)) == 0


@pytest.mark.parametrize("moment", ["before the flag goes down", "after the last poll"])
def test_work_that_comes_while_a_job_ends_is_done(redis_url: str, client: redis.Redis, moment: str) -> None:
    # Given one piece of work more, written and woken for at the worst moment of the first job's end
    taken: list[int] = []

    def one_more() -> None:
        client.incr("work")
        wakeups.wake(client, QUEUE)

    def poll() -> bool:
        found = int(client.get("work") or 0) > 0
        if moment == "after the last poll" and len(taken) == 1:
            one_more()
        return found

    def body(stop: Stop) -> None:
        taken.append(int(client.getset("work", 0) or 0))
        if moment == "before the flag goes down" and len(taken) == 1:
            one_more()
        wakeups.finish(client, QUEUE, poll)
        if sum(taken) == 2:
            stop.ask()

    one_more()
    serve_queue(redis_url, body)
    assert sum(taken) == 2


def test_no_wake_up_is_lost_between_a_busy_producer_and_a_worker(redis_url: str, client: redis.Redis) -> None:
    # Given work that is counted in Redis, and a producer that wakes after each piece, at every moment of the protocol
    pieces, taken = 250, 0
    pauses = [0.0, 0.0005, 0.001, 0.002, 0.004]

    def produce() -> None:
        with redis_client.connect(redis_url, timeout=5.0, connect_timeout=2.0, retries=0) as mine:
            for number in range(pieces):
                mine.incr("work")
                wakeups.wake(mine, QUEUE)
                time.sleep(pauses[number % len(pauses)])

    def body(stop: Stop) -> None:
        nonlocal taken
        taken += int(client.getset("work", 0) or 0)
        wakeups.finish(client, QUEUE, lambda: int(client.get("work") or 0) > 0)
        if taken == pieces:
            stop.ask()

    producer = threading.Thread(target=produce)
    producer.start()
    # When nothing looks once a second, then the worker still sees every piece
    serve_queue(redis_url, body)
    producer.join()
    assert taken == pieces


@pytest.mark.parametrize("seconds", [None, wakeups.FLAG_TTL + 3600])
def test_a_flag_that_does_not_lapse_as_ours_do_is_down(client: redis.Redis, seconds: int | None) -> None:
    client.set(flag_key(QUEUE), "a stranger's", ex=seconds)
    assert wakeups.wake(client, QUEUE)
    assert queued(client) == 1
    assert 0 < client.ttl(flag_key(QUEUE)) <= wakeups.FLAG_TTL
