"""Wake-ups: RQ jobs that report new work to a worker. A wake-up carries nothing, so a lost one only delays the work.

Each worker looks for work once a second; a wake-up makes that immediate. At most one is outstanding for a queue,
because it is enqueued only while the flag of the queue is down. Its job lowers the flag at its end and then looks for
work once more (`finish`): work that was written before the flag went down is found then, and work written after it
enqueues the next wake-up.

A queue has the role of its process, such as "dispatch" or "deliver:archive" (receiver/domain/liveness.py).

Here is the producer: the flag, and the job's record as RQ stores it. The receiver wakes the dispatcher with each commit
that needs it, so this does not import rq, which takes longer to import than the rest of the receiver's start. The
consumer, RQ's worker, is in `worker`.
"""
# mypy: disable-error-code="no-untyped-call"
# redis-py leaves execute_command untyped.

from __future__ import annotations

import uuid
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import redis

from receiver.domain.time_limits import JOB_TIMEOUT

# Seconds after which a flag expires whose wake-up was lost; then the next look for work enqueues another one.
FLAG_TTL: Final = 10
# Seconds that the record of a job lives if no worker takes it.
RECORD_TTL: Final = 3600
# Seconds that RQ keeps the record of a failed job.
FAILURE_TTL: Final = 60
# The job's function, as RQ records it. The worker compares the name and never imports it.
FUNCTION: Final = "receiver.wakeups.work"
# Function, instance, arguments and keyword arguments, as RQ's JSON serializer writes them.
JOB_DATA: Final = f'["{FUNCTION}", null, [], {{}}]'.encode()

# KEYS: flag, queue, job record, set of queues. ARGV: seconds of the flag, seconds of the record, job id, then names and
# values of the record. A flag that expires later than Runhook's, or never, was not set by Runhook.
_SCRIPT: Final = """
local expires = redis.call('PTTL', KEYS[1])
if expires > 0 and expires <= ARGV[1] * 1000 then return 0 end
redis.call('SET', KEYS[1], ARGV[3], 'EX', ARGV[1])
if redis.call('LLEN', KEYS[2]) > 0 then return 0 end
redis.call('HSET', KEYS[3], unpack(ARGV, 4))
redis.call('EXPIRE', KEYS[3], ARGV[2])
redis.call('SADD', KEYS[4], KEYS[2])
redis.call('RPUSH', KEYS[2], ARGV[3])
return 1
"""


def flag_key(queue: str) -> str:
    """Return the Redis key of the flag that is up while a wake-up of `queue` is outstanding."""
    return f"runhook:wake:{queue}"


def job_record(queue: str) -> dict[str, Any]:
    """Return the record of a new wake-up of `queue`, as RQ stores it."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "data": zlib.compress(JOB_DATA),
        "origin": queue,
        "description": "wake-up",
        "timeout": JOB_TIMEOUT,
        "result_ttl": 0,
        "failure_ttl": FAILURE_TTL,
        "status": "queued",
        "created_at": now,
        "enqueued_at": now,
    }


def wake_command(queue: str) -> tuple[Any, ...]:
    """Return the wake-up as one Redis command, for `execute_command(*wake_command(queue))` of any client or pipeline,
    sync or async. Its reply is 1 when a wake-up was enqueued, else 0."""
    job_id = uuid.uuid4().hex
    keys = (flag_key(queue), f"rq:queue:{queue}", f"rq:job:{job_id}", "rq:queues")
    record = (part for field in job_record(queue).items() for part in field)
    return ("EVAL", _SCRIPT, len(keys), *keys, FLAG_TTL, RECORD_TTL, job_id, *record)


def wake(client: redis.Redis, queue: str) -> bool:
    """Enqueue a wake-up for `queue` unless one is outstanding. Call it after the work is committed.

    Returns whether it enqueued one. Raises redis.RedisError.
    """
    return bool(client.execute_command(*wake_command(queue)))


def finish(client: redis.Redis, queue: str, more: Callable[[], bool]) -> bool:
    """Finish a job: lower the flag, look for work once more, and wake the queue again if there is some.

    `more` must see all work that was committed before it is called. Returns its result. Raises redis.RedisError.
    """
    client.delete(flag_key(queue))
    if not more():
        return False
    wake(client, queue)
    return True
