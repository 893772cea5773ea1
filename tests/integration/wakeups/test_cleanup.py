"""What dead workers and stock RQ leave in Redis is cleared, and the work woken again."""

from __future__ import annotations

import pytest
import redis
import redis.asyncio
from rq import Queue
from rq.job import Job

from receiver import wakeups
from receiver.runtime import redis_client
from receiver.wakeups import cleanup
from receiver.wakeups.rq_worker import RunhookWorker, Stop
from tests.support.waiting import eventually
from tests.support.wakeups import LANE, QUEUE, queued, serve

# --- Repair


def die_in_the_middle(url: str, name: str) -> None:
    """Leave behind what a worker that is killed in the middle of a job leaves."""

    class Killed(BaseException):
        pass

    def body(_stop: Stop) -> None:
        raise Killed

    client = redis_client.connect(url, timeout=5.0, connect_timeout=2.0, retries=0)
    worker = RunhookWorker(QUEUE, client, f"{name}.1", body=lambda: body(Stop()))
    worker.register_birth()
    with pytest.raises(Killed):
        worker.serve(Stop())
    client.close()


def test_what_a_dead_child_held_is_cleared_and_woken_again_at_once(redis_url: str, client: redis.Redis) -> None:
    wakeups.wake(client, QUEUE)
    die_in_the_middle(redis_url, "dead")
    assert client.zcard(f"rq:wip:{QUEUE}") == 1
    assert cleanup.clear_dead(client, QUEUE, "dead") == 1
    assert client.zcard(f"rq:wip:{QUEUE}") == 0
    assert client.keys("rq:worker:dead*") == []
    assert queued(client) == 1


def test_clearing_one_dead_child_leaves_a_living_one_alone(redis_url: str, client: redis.Redis) -> None:
    wakeups.wake(client, QUEUE)
    die_in_the_middle(redis_url, "living")
    assert cleanup.clear_dead(client, QUEUE, "liv") == 0
    assert client.zcard(f"rq:wip:{QUEUE}") == 1


def test_a_sweep_that_finds_nothing_repairs_nothing(client: redis.Redis) -> None:
    assert not cleanup.sweep(client, [QUEUE, "dispatch"])
    assert not cleanup.sweep(client, [])
    assert client.keys() == []


def test_a_sweep_leaves_a_running_job_alone(redis_url: str, client: redis.Redis) -> None:
    swept = []

    def body(stop: Stop) -> None:
        swept.append(cleanup.sweep(client, [QUEUE]))
        stop.ask()

    wakeups.wake(client, QUEUE)
    serve(redis_url, body)
    assert swept == [cleanup.Swept()]


def test_a_sweep_wakes_again_what_a_dead_worker_had_begun(redis_url: str, client: redis.Redis) -> None:
    wakeups.wake(client, QUEUE)
    die_in_the_middle(redis_url, "dead")
    assert not cleanup.sweep(client, [QUEUE])  # it may be alive
    client.delete("rq:worker:dead.1")  # its record lapses
    assert cleanup.sweep(client, [QUEUE]) == cleanup.Swept(started=1, workers=1)
    assert queued(client) == 1
    assert not cleanup.sweep(client, [QUEUE])


def test_a_sweep_wakes_again_what_was_lost_between_two_lists(client: redis.Redis) -> None:
    wakeups.wake(client, QUEUE)
    client.lmove(f"rq:queue:{QUEUE}", LANE)  # and the worker is killed here
    assert eventually(lambda: cleanup.sweep(client, [QUEUE]), every=0.2) == cleanup.Swept(intermediate=1)
    assert (queued(client), client.llen(LANE)) == (1, 0)
    assert client.keys(f"{LANE}*") == []


def test_a_sweep_clears_the_failed_list_that_stock_rq_may_have_filled(client: redis.Redis) -> None:
    job = Queue(QUEUE, connection=client, serializer="json").enqueue("receiver.wakeups.work")
    client.delete(f"rq:queue:{QUEUE}")
    job.failed_job_registry.add(job, ttl=60, exc_string="killed")
    assert cleanup.sweep(client, [QUEUE]) == cleanup.Swept(failed=1)
    assert client.exists(Job.key_for(job.id)) == 0
    assert queued(client) == 1


def test_no_record_of_a_job_stays_for_ever(client: redis.Redis) -> None:
    wakeups.wake(client, QUEUE)
    (key,) = client.keys("rq:job:*")
    assert 0 < client.ttl(key) <= 3600
