"""What a stranger writes into RQ's keys stops no queue: a wake-up carries nothing, so all of it may go."""

from __future__ import annotations

import pytest
import redis

from receiver import wakeups
from receiver.wakeups import cleanup
from receiver.wakeups.flags import flag_key
from receiver.wakeups.rq_worker import Stop
from tests.support.wakeups import LANE, QUEUE, once, queued, serve

REGISTRIES = [LANE, f"rq:queue:{QUEUE}", f"rq:wip:{QUEUE}", f"rq:workers:{QUEUE}", "rq:workers"]
# Seconds within which a queue must be served again.
SOON = 10.0


def spoil(client: redis.Redis, key: str) -> None:
    client.delete(key)
    client.set(key, "a stranger's")


@pytest.mark.parametrize("key", REGISTRIES)
def test_a_worker_starts_though_a_key_of_rq_has_another_type(redis_url: str, client: redis.Redis, key: str) -> None:
    spoil(client, key)
    serve(redis_url, once, seconds=SOON)


@pytest.mark.parametrize("key", REGISTRIES)
def test_a_worker_goes_on_though_a_key_of_rq_gets_another_type(
    redis_url: str, client: redis.Redis, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = 0

    def body(stop: Stop) -> None:
        nonlocal jobs
        jobs += 1
        if jobs == 1:
            wakeups.lower_flag(client, QUEUE)
            spoil(client, key)
            wakeups.wake(client, QUEUE)
        else:
            stop.ask()

    serve(redis_url, body, seconds=SOON)
    assert sum("something else has written" in line for line in caplog.messages) <= 1


def test_a_worker_starts_though_a_dead_one_left_a_key_of_another_type(redis_url: str, client: redis.Redis) -> None:
    client.sadd(f"rq:workers:{QUEUE}", "rq:worker:dead.1")
    spoil(client, "rq:worker:dead.1:executions")
    serve(redis_url, once, predecessors=["dead"], seconds=SOON)


@pytest.mark.parametrize("key", [*REGISTRIES[2:4], LANE, f"rq:failed:{QUEUE}"])
def test_a_sweep_clears_a_key_of_another_type_and_repairs_the_other_queues(client: redis.Redis, key: str) -> None:
    spoil(client, key)
    client.zadd("rq:failed:dispatch", {"lost": 1})
    assert cleanup.sweep(client, [QUEUE, "dispatch"]).failed == 1
    assert not client.exists(key)
    assert queued(client) == 1


@pytest.mark.parametrize("value", ["no time", "1e999"])
def test_a_sweep_bears_a_time_that_none_of_ours_has_written(client: redis.Redis, value: str) -> None:
    client.rpush(LANE, "lost")
    client.set(f"{LANE}:first_seen:lost", value)
    cleanup.sweep(client, [QUEUE])


def test_what_is_no_wake_up_does_not_keep_one_away(redis_url: str, client: redis.Redis) -> None:
    client.rpush(f"rq:queue:{QUEUE}", "no job")
    serve(redis_url, once, seconds=SOON)


def test_a_queue_full_of_what_is_no_wake_up_is_emptied(client: redis.Redis) -> None:
    client.rpush(f"rq:queue:{QUEUE}", *(f"junk {n}" for n in range(5000)))
    assert wakeups.wake(client, QUEUE)
    assert queued(client) == 1
    assert client.exists(flag_key(QUEUE))


def test_a_nudge_of_another_type_is_no_nudge_and_goes(client: redis.Redis) -> None:
    client.hset(wakeups.nudge_key(QUEUE), "a", "b")
    assert not wakeups.NudgeWait(client, QUEUE).wait(0.05)
    assert not client.exists(wakeups.nudge_key(QUEUE))
