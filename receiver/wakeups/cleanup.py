"""Removes what dead workers leave in RQ's lists, and wakes their queues again. Runs no job.

A wake-up carries nothing, so a broken one is never resumed: all its traces go, and a new one is enqueued. One too many
does no harm; it finds nothing to do.
"""
# mypy: disable-error-code="no-untyped-call"
# redis-py leaves execute_command untyped.

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

import redis
from rq import Queue
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.utils import current_timestamp, now
from rq.worker_registration import REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY

from receiver.wakeups.flags import wake_command

_STUCK = 2.0  # seconds in the intermediate queue, where a job stays for a millisecond, after which its worker is dead
_MOST = 999  # entries of one list that one sweep reads

log = logging.getLogger("runhook.worker")


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep repaired: wake-ups that had failed, whose worker was gone (`started`), that were stuck between two
    lists (`intermediate`), and records of workers that are gone."""

    failed: int = 0
    started: int = 0
    intermediate: int = 0
    workers: int = 0

    def __add__(self, other: Swept) -> Swept:
        return Swept(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Swept)))

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(Swept))


def left_behind(queues: Iterable[str]) -> list[str]:
    """Return the keys of which one is there while a job of `queues` is under way, or a dead worker has left one."""
    kinds = ("rq:failed:{}", "rq:wip:{}", "rq:queue:{}:intermediate")
    return [kind.format(queue) for queue in queues for kind in kinds]


def anything_left(client: redis.Redis, queues: Iterable[str]) -> bool:
    """Whether a job of `queues` is under way, or what a dead worker has left of one. Raises redis.RedisError.

    One command, and true for keys of another type as well: it says when `sweep` is worth its many.
    """
    return bool(client.exists(*left_behind(queues)))


def sweep(client: redis.Redis, queues: Sequence[str]) -> Swept:
    """Repair RQ's lists of `queues`, and wake those in which a wake-up was lost. Raises redis.RedisError.

    With nothing to repair and no worker it is one round trip, with workers two. Any number of clocks may run it.
    """
    pipeline = client.pipeline(transaction=False)
    for queue in queues:
        pipeline.zrange(f"rq:failed:{queue}", 0, _MOST)
        pipeline.zrange(f"rq:wip:{queue}", 0, _MOST, withscores=True)
        pipeline.lrange(f"rq:queue:{queue}:intermediate", 0, _MOST)
        pipeline.smembers(WORKERS_BY_QUEUE_KEY % queue)
    answers: list[Any] = pipeline.execute(raise_on_error=False)
    total = Swept()
    for number, queue in enumerate(queues):
        found = answers[4 * number : 4 * number + 4]
        try:
            for each in found:
                if isinstance(each, Exception):
                    raise each
            failed, started, stuck, workers = found
            if failed or started or stuck or workers:
                total += _sweep_queue(client, queue, failed, dict(started), stuck, list(workers))
        except redis.ResponseError as error:
            if not clear_spoilt(client, queue, error):
                raise
    return total


def clear_spoilt(client: redis.Redis, queue: str, error: redis.RedisError) -> bool:
    """Remove all that RQ keeps of `queue`, and wake it, when `error` says that a key has another type than RQ's.

    Only a stranger can have written that, and no worker could serve the queue with it. What is lost carries nothing:
    living workers register again. False, and nothing is removed, for all other errors. Raises redis.RedisError.
    """
    if "WRONGTYPE" not in str(error):
        return False
    name = f"rq:queue:{queue}"
    kept = (name, f"{name}:intermediate", f"rq:wip:{queue}", f"rq:failed:{queue}", WORKERS_BY_QUEUE_KEY % queue)
    pipeline = client.pipeline()
    pipeline.delete(*kept, REDIS_WORKER_KEYS, Queue.redis_queues_keys)
    pipeline.execute_command(*wake_command(queue, force=True))
    pipeline.execute()
    log.warning("%s: something else has written into what RQ keeps in Redis; it was removed", queue)
    return True


def _sweep_queue(
    client: redis.Redis,
    queue: str,
    failed: list[bytes],
    started: dict[bytes, float],
    stuck: list[bytes],
    workers: list[bytes],
) -> Swept:
    gone = _gone(client, workers)
    orphans = _orphans(client, started)
    dead = [entry for entry, expiry in started.items() if expiry < current_timestamp() or entry in orphans]
    held = {_job_id(entry) for entry in started}
    lost = [raw_id for raw_id in stuck if _text(raw_id) not in held and _is_stuck(client, queue, _text(raw_id))]
    pipeline = client.pipeline()
    for raw_id in failed:
        pipeline.zrem(f"rq:failed:{queue}", raw_id)
        forget(pipeline, _text(raw_id))
    _drop_executions(pipeline, queue, dead)
    _drop_intermediate(pipeline, queue, lost)
    for key in gone:
        _drop_worker(pipeline, queue, key)
    if failed or dead or lost:
        pipeline.execute_command(*wake_command(queue, force=True))
    pipeline.execute()
    return Swept(len(failed), len(dead), len(lost), len(gone))


def clear_dead(client: redis.Redis, queue: str, name: str) -> int:
    """Remove at once what the worker process `name` of `queue`, certainly dead, left behind; wake the queue again if
    it held a wake-up. How many it held. Raises redis.RedisError.

    An entry of the intermediate queue names no worker: all of them are dropped.
    """
    prefix = f"rq:worker:{name}."
    keys: list[Any] = [key for key in client.smembers(WORKERS_BY_QUEUE_KEY % queue) if _text(key).startswith(prefix)]
    stuck: list[Any] = client.lrange(f"rq:queue:{queue}:intermediate", 0, -1)
    held: list[Any] = [entry for key in keys for entry in client.smembers(f"{_text(key)}:executions")]
    pipeline = client.pipeline()
    _drop_executions(pipeline, queue, held)
    _drop_intermediate(pipeline, queue, stuck)
    for key in keys:
        pipeline.delete(key)
        _drop_worker(pipeline, queue, key)
    if held or stuck:
        pipeline.execute_command(*wake_command(queue, force=True))
    pipeline.execute()
    return len(held) + len(stuck)


def forget(pipeline: Any, job_id: str) -> None:
    """Remove every key of a job."""
    key = Job.key_for(job_id)
    pipeline.delete(key, f"{key}:dependents", f"rq:results:{job_id}", f"rq:executions:{job_id}")


def _drop_executions(pipeline: Any, queue: str, entries: Iterable[bytes]) -> None:
    for entry in entries:
        pipeline.delete(f"rq:execution:{_text(entry)}")
        pipeline.zrem(f"rq:wip:{queue}", entry)
        forget(pipeline, _job_id(entry))


def _drop_intermediate(pipeline: Any, queue: str, raw_ids: Iterable[bytes]) -> None:
    queue_key = f"rq:queue:{queue}:intermediate"
    for raw_id in raw_ids:
        pipeline.lrem(queue_key, 0, raw_id)
        pipeline.delete(f"{queue_key}:first_seen:{_text(raw_id)}")
        forget(pipeline, _text(raw_id))


def _drop_worker(pipeline: Any, queue: str, key: bytes) -> None:
    pipeline.srem(WORKERS_BY_QUEUE_KEY % queue, key)
    pipeline.srem(REDIS_WORKER_KEYS, key)
    pipeline.delete(f"{_text(key)}:executions")


def _gone(client: redis.Redis, workers: Sequence[bytes]) -> list[bytes]:
    """Return the registered workers whose record has lapsed."""
    pipeline = client.pipeline(transaction=False)
    for key in workers:
        pipeline.exists(key)
    return [key for key, exists in zip(workers, pipeline.execute(), strict=True) if not exists]


def _orphans(client: redis.Redis, entries: Iterable[bytes]) -> set[bytes]:
    """Return the executions whose worker has no record any more, or has recorded its own death."""
    entries = list(entries)
    pipeline = client.pipeline(transaction=False)
    for entry in entries:
        pipeline.hget(f"rq:execution:{_text(entry)}", "worker_name")
    names = [_text(name or b"") for name in pipeline.execute()]
    for name in names:
        pipeline.hmget(f"rq:worker:{name}", "birth", "death")
    return {entry for entry, (birth, death) in zip(entries, pipeline.execute(), strict=True) if not birth or death}


def _is_stuck(client: redis.Redis, queue: str, job_id: str) -> bool:
    """Whether an earlier sweep saw the job there, long enough ago."""
    intermediate = IntermediateQueue(f"rq:queue:{queue}", client)
    if intermediate.set_first_seen(job_id):
        return False
    seen = None
    with suppress(ValueError, OverflowError):  # not what a sweep of ours has written
        seen = intermediate.get_first_seen(job_id)
    return seen is not None and (now() - seen).total_seconds() >= _STUCK


def _job_id(entry: bytes) -> str:
    """Return the job of an entry of the started registry, "<job>:<execution>"."""
    return _text(entry).split(":")[0]


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
